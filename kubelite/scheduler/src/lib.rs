//! kubelite-scheduler
