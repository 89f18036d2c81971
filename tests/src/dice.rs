//! Random choices that are a function of a seed.

/// A splitmix64 sequence.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// The sequence of one party of a run.
    pub fn new(seed: u64, party: u64) -> Dice {
        Dice(seed ^ party.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Below `n`.
    pub fn roll(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    /// One of them.
    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len() as u64) as usize].clone()
    }

    /// Between two numbers of milliseconds.
    pub async fn pause(&mut self, ms_min: u64, ms_max: u64) {
        let ms = ms_min + self.roll(ms_max - ms_min);
        tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
    }
}
