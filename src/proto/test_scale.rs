//! How long the random tests run.

use proptest::test_runner::Config;

/// `count` cases, times `UDSMSG_TEST_SCALE`.
pub(super) fn cases(count: u32) -> Config {
    let scale = std::env::var("UDSMSG_TEST_SCALE").ok().and_then(|scale| scale.parse().ok()).unwrap_or(1);
    Config::with_cases(count.saturating_mul(scale))
}
