//! kubelite-store
