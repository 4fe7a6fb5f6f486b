//! The udsmsg command.
fn main() {}
