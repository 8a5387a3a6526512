//! The builds of `up`: counted, and told of where they fail or take long.

use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use starmere_lake::metrics::{BUILD_SECONDS, BUILDS_FAILED, BUILDS_STARTED, Text, names};
use starmere_lake::troubles::{self, About};

use crate::failure;
use crate::held::HeldBack;
use crate::publish::Behind;

/// A build that takes longer is told of, and again after twice as long, and so on.
const LONG: Duration = Duration::from_secs(60);

/// The object of troubles about builds.
const MODELS: &str = "models";

/// How the builds of this process go.
#[derive(Debug)]
struct State {
    running_since: Option<Instant>,
    last_took: Option<Duration>,
    /// Seconds since 1970.
    last_success: Option<i64>,
    failing: bool,
    held_back: usize,
}

static STATE: Mutex<State> =
    Mutex::new(State { running_since: None, last_took: None, last_success: None, failing: false, held_back: 0 });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a build of a project with so many ports; tells of it where it fails, leaves products behind or takes long.
pub(crate) async fn watched<T>(
    ports: usize,
    build: impl Future<Output = anyhow::Result<(T, Option<Behind>)>>,
) -> Option<T> {
    BUILDS_STARTED.add(1);
    let begun = Instant::now();
    state().running_since = Some(begun);
    let mut build = pin!(build);
    let mut pause = LONG;
    let outcome = loop {
        tokio::select! {
            outcome = &mut build => break outcome,
            () = tokio::time::sleep(pause) => {
                tracing::warn!(seconds = begun.elapsed().as_secs(), "a build takes long");
                pause *= 2;
            }
        }
    };
    let took = begun.elapsed();
    BUILD_SECONDS.observe(took);
    let (built, held_back, error) = match outcome {
        Ok((built, None)) => (Some(built), 0, None),
        Ok((built, Some(behind))) => (Some(built), behind.ports, Some(behind.why)),
        Err(error) => (None, ports, Some(error)),
    };
    match &error {
        None => {
            troubles::well_but_for(About::Product, &[]);
            troubles::well(About::Build, MODELS);
        }
        Some(error) => failed(error, built.is_some()),
    }
    let mut state = state();
    state.running_since = None;
    state.last_took = Some(took);
    state.failing = error.is_some();
    state.held_back = held_back;
    if error.is_none() {
        state.last_success = Some(chrono::Utc::now().timestamp());
    }
    built
}

/// `is_built`: what it says of contracts is all that breaks one.
fn failed(error: &anyhow::Error, is_built: bool) {
    BUILDS_FAILED.add(1);
    let hint = failure::hint(error).map(|hint| format!("; hint: {hint}")).unwrap_or_default();
    troubles::failed(About::Build, MODELS, &format!("{}{hint}", troubles::causes(&**error)));
    let held_back = error.chain().find_map(|cause| cause.downcast_ref::<HeldBack>());
    let breaches = held_back.map_or(&[][..], |held_back| held_back.breaches.as_slice());
    if is_built {
        let ports: Vec<&str> = breaches.iter().map(|breach| breach.port.as_str()).collect();
        troubles::well_but_for(About::Product, &ports);
    }
    for breach in breaches {
        troubles::failed(About::Product, &breach.port, &breach.words());
    }
}

/// Adds how builds go to `text`.
pub(crate) fn describe(text: &mut Text) {
    let state = state();
    text.add(&names::BUILD_FAILING, &[], Some(u8::from(state.failing)));
    text.add(&names::PRODUCTS_HELD_BACK, &[], Some(state.held_back));
    let running = state.running_since.map_or(0.0, |since| since.elapsed().as_secs_f64());
    text.add(&names::BUILD_RUNNING_SECONDS, &[], Some(running));
    text.add(&names::BUILD_LAST_SECONDS, &[], state.last_took.map(|took| took.as_secs_f64()));
    text.add(&names::BUILD_LAST_SUCCESS, &[], state.last_success);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described() -> String {
        let mut text = Text::default();
        describe(&mut text);
        text.finish()
    }

    // One test: the state is that of the process.
    #[tokio::test]
    async fn a_build_that_fails_is_a_trouble_until_one_succeeds() {
        let (started, failed) = (BUILDS_STARTED.value(), BUILDS_FAILED.value());
        let failing = async { Err::<(u32, _), _>(anyhow::Error::msg("the disk is full")) };
        assert!(watched(3, failing).await.is_none());
        let text = described();
        assert!(text.contains("starmere_build_failing 1\n"), "{text}");
        assert!(text.contains("starmere_products_held_back 3\n"), "{text}");

        // What is not held back is published all the same.
        let held_back = HeldBack::of_one("sales.orders_v1.lines", "a key is there twice");
        let behind = Behind { ports: 1, why: held_back.into() };
        assert_eq!(watched(3, async { Ok((5, Some(behind))) }).await, Some(5));
        let text = described();
        assert!(text.contains("starmere_build_failing 1\n"), "{text}");
        assert!(text.contains("starmere_products_held_back 1\n"), "{text}");
        let trouble = troubles::of(About::Build, MODELS).unwrap();
        assert!(trouble.cause.contains("a key is there twice") && trouble.cause.contains("hint: "), "{trouble:?}");
        assert!(troubles::of(About::Product, "sales.orders_v1.lines").is_some());

        assert_eq!(watched(3, async { Ok((7, None)) }).await, Some(7));
        let text = described();
        assert!(text.contains("starmere_build_failing 0\n"), "{text}");
        assert!(text.contains("starmere_products_held_back 0\n"), "{text}");
        assert!(text.contains("starmere_build_last_success_timestamp_seconds "), "{text}");
        assert_eq!(troubles::of(About::Build, MODELS), None);
        assert_eq!(troubles::of(About::Product, "sales.orders_v1.lines"), None);
        assert_eq!((BUILDS_STARTED.value() - started, BUILDS_FAILED.value() - failed), (3, 2));
    }
}
