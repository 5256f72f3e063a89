//! When to try again, and when not.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::errors::Error;
use crate::tail::TailOptions;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Nobody who asks for a day can mean it of a stream.
const LONGEST_ASKED: Duration = Duration::from_secs(600);
/// Part that is added at random to a pause the gateway asks for, so that clients do not return all at once.
const JITTER: f64 = 0.2;

/// Repeats a call until it succeeds, fails for good, or an outage outlasts patience.
pub(crate) async fn sit_out<A, F>(options: &TailOptions, call: impl Fn() -> F) -> Result<A, Error>
where
    F: Future<Output = Result<A, Error>>,
{
    let mut outage = Outage::new(options.patience);
    loop {
        match call().await {
            Ok(answer) => return Ok(answer),
            Err(error) => outage.wait(error, options).await?,
        }
    }
}

/// Begins with the first failure: the time that a healthy stream had nothing to say before it is no part of it.
pub(crate) struct Outage {
    patience: Option<Duration>,
    began: Instant,
    attempts: u32,
}

impl Outage {
    /// Without patience it has no end.
    pub(crate) fn new(patience: Option<Duration>) -> Self {
        Self { patience, began: Instant::now(), attempts: 0 }
    }

    /// What came is progress.
    pub(crate) fn over(&mut self) {
        self.attempts = 0;
    }

    /// Waits until it is time to try again, and says so first. Gives the error back as `pause_after` does.
    pub(crate) async fn wait(&mut self, error: Error, options: &TailOptions) -> Result<(), Error> {
        let (error, pause) = self.pause_after(error)?;
        if let Some(announce) = &options.on_reconnect {
            announce(&error, pause);
        }
        sleep(pause).await;
        Ok(())
    }

    /// The pause before the next try. Gives the error back when it is final or there will be no other try.
    fn pause_after(&mut self, error: Error) -> Result<(Error, Duration), Error> {
        if !error.is_retryable() {
            return Err(error);
        }
        if self.attempts == 0 {
            self.began = Instant::now();
        }
        self.attempts = self.attempts.saturating_add(1);
        let asked = error.retry_after().min(LONGEST_ASKED);
        let left = match self.patience {
            Some(patience) => patience.saturating_sub(self.began.elapsed()),
            None => Duration::MAX,
        };
        if left.is_zero() || asked > left {
            return Err(error);
        }
        Ok((error, pause(self.attempts, asked, left)))
    }
}

/// Grows from try to try and is never shorter than asked; patience bounds it, so that the last try is at its end.
fn pause(attempts: u32, asked: Duration, left: Duration) -> Duration {
    let doublings = attempts.saturating_sub(1).min(16);
    let ceiling = (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE);
    let random = ceiling.mul_f64(fastrand::f64());
    let jittered = asked.mul_f64(1.0 + fastrand::f64() * JITTER);
    random.max(jittered).min(asked.max(left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errors::StreamInterrupted;

    const HOUR: Duration = Duration::from_secs(3600);

    fn interrupted(retry_after: Duration) -> Error {
        StreamInterrupted { retry_after, ..StreamInterrupted::new("cut") }.into()
    }

    #[test]
    fn pauses_grow_and_are_never_shorter_than_asked() {
        for (attempts, ceiling) in [(1, 100), (4, 800), (70, 15_000)] {
            for _ in 0..100 {
                assert!(pause(attempts, Duration::ZERO, HOUR) <= Duration::from_millis(ceiling));
                let minute = Duration::from_secs(60);
                let asked = pause(attempts, minute, HOUR);
                assert!(asked >= minute && asked <= minute.mul_f64(1.2), "asked for a minute, waits {asked:?}");
                let impatient = Duration::from_nanos(1);
                assert!(pause(attempts, Duration::ZERO, impatient) <= impatient);
            }
        }
    }

    #[test]
    fn an_outage_ends_with_its_patience_and_with_what_is_final() {
        let mut endless = Outage::new(None);
        assert!(endless.pause_after(interrupted(HOUR)).is_ok_and(|(_, pause)| pause <= LONGEST_ASKED.mul_f64(1.2)));
        assert!(endless.pause_after(Error::Argument("final".to_owned())).is_err());
        let mut short = Outage::new(Some(Duration::from_secs(60)));
        assert!(short.pause_after(interrupted(Duration::ZERO)).is_ok());
        assert!(short.pause_after(interrupted(HOUR)).is_err(), "asked for longer than is left");
        assert!(Outage::new(Some(Duration::ZERO)).pause_after(interrupted(Duration::ZERO)).is_err());
    }
}
