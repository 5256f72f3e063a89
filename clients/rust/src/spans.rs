//! Times of the contract as the standard library has them.

use std::time::{Duration, SystemTime};

const NANOS: u32 = 999_999_999;

/// A length of time as it can be waited for: a negative one is none.
pub(crate) fn span(duration: Option<prost_types::Duration>) -> Duration {
    let said = duration.unwrap_or_default();
    match (u64::try_from(said.seconds), u32::try_from(said.nanos)) {
        (Ok(seconds), Ok(nanos)) => Duration::new(seconds, nanos.min(NANOS)),
        _ => Duration::ZERO,
    }
}

/// A length of time as the contract has it; one beyond any calendar is its end.
pub(crate) fn duration(span: Duration) -> prost_types::Duration {
    let longest = prost_types::Duration { seconds: i64::MAX, nanos: 0 };
    prost_types::Duration::try_from(span).unwrap_or(longest)
}

/// A time; one that no clock shows is none.
pub(crate) fn time(timestamp: Option<prost_types::Timestamp>) -> Option<SystemTime> {
    let said = timestamp?;
    let distance = Duration::from_secs(said.seconds.unsigned_abs());
    let second = match said.seconds {
        0.. => SystemTime::UNIX_EPOCH.checked_add(distance),
        _ => SystemTime::UNIX_EPOCH.checked_sub(distance),
    };
    second?.checked_add(Duration::from_nanos(u64::try_from(said.nanos).ok()?.min(NANOS.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_that_is_none_does_no_harm() {
        for (seconds, nanos) in [(-5, 0), (0, -1), (i64::MIN, i32::MIN)] {
            assert_eq!(span(Some(prost_types::Duration { seconds, nanos })), Duration::ZERO);
        }
        let longest = span(Some(prost_types::Duration { seconds: i64::MAX, nanos: i32::MAX }));
        assert!(longest > Duration::from_secs(600));
        assert_eq!(span(None), Duration::ZERO);
        assert_eq!(duration(Duration::MAX).seconds, i64::MAX);
    }

    #[test]
    fn a_time_that_no_clock_shows_is_none() {
        let at = |seconds, nanos| time(Some(prost_types::Timestamp { seconds, nanos }));
        assert_eq!([at(0, i32::MIN), time(None)], [None; 2]);
        assert!(at(i64::MIN, 0).is_none_or(|time| time < SystemTime::UNIX_EPOCH));
        assert!(at(i64::MAX, i32::MAX).is_none_or(|time| time > SystemTime::now()));
        let half = SystemTime::UNIX_EPOCH.checked_sub(Duration::from_millis(500));
        assert_eq!(at(-1, 500_000_000), half);
        assert_eq!(at(1, 0), Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1)));
    }
}
