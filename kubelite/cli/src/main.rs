//! `kubelite`: the composition root.
fn main() {}
