//! kubelite-controllers
