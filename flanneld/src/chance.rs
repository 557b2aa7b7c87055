//! Chance, from one place: a test may seed it, and then a run can be had again.

use std::ops::Range;

#[cfg(test)]
thread_local! {
    static SEEDED: std::cell::RefCell<Option<rand::rngs::StdRng>> = const { std::cell::RefCell::new(None) };
}

/// From here on this thread's chance follows from the seed.
#[cfg(test)]
pub fn seed(seed: u64) {
    use rand::SeedableRng;
    SEEDED.with(|seeded| *seeded.borrow_mut() = Some(rand::rngs::StdRng::seed_from_u64(seed)));
}

/// An index below `count`, which is not 0.
pub fn below(count: usize) -> usize {
    #[cfg(test)]
    if let Some(drawn) = draw(0..count) {
        return drawn;
    }
    rand::random_range(0..count)
}

/// A factor within the range.
pub fn factor(range: Range<f64>) -> f64 {
    #[cfg(test)]
    if let Some(drawn) = draw(range.clone()) {
        return drawn;
    }
    rand::random_range(range)
}

#[cfg(test)]
fn draw<T: rand::distr::uniform::SampleUniform + PartialOrd>(range: Range<T>) -> Option<T> {
    use rand::RngExt;
    SEEDED.with(|seeded| seeded.borrow_mut().as_mut().map(|rng| rng.random_range(range)))
}
