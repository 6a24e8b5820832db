//! What is examined, and in which order.

use std::sync::Arc;

use super::check::{Check, Checks, Sink, Verdict};
use super::keys::{self, Keys};
use super::machine::{self, Machine};
use super::objects::{self, Use};
use super::scratch::Scratch;
use super::{bucket, network, speed};
use crate::base::error_chain::chain;
use crate::oss::client::Client;
use crate::store::object_store::ObjectStore;

pub(crate) use super::keys::Keys as GivenKeys;
pub(crate) use super::machine::Machine as ThisMachine;
pub(crate) use super::objects::Use as Usage;

/// The bucket of a source.
pub(crate) struct Place {
    pub store: Arc<dyn ObjectStore>,
    /// Empty, or ends with `/`.
    pub prefix: String,
    /// None for a bucket in a folder, which no network is needed for.
    pub client: Option<Client>,
}

/// What the command was given.
pub(crate) struct Patient {
    pub machine: Machine,
    /// None: no source was given.
    pub place: Option<std::result::Result<Place, Unusable>>,
    pub keys: Keys,
    pub usage: Use,
    /// Without measuring throughput.
    pub quick: bool,
}

/// Why nothing can be requested from a source.
pub(crate) struct Unusable {
    pub why: String,
}

/// Steps that need the bucket's permissions, in their order.
const OF_OBJECTS: [&str; 9] = [
    "versioning",
    "put",
    "head",
    "get",
    "forbid-overwrite",
    "if-match",
    "copy",
    "multipart",
    "delete",
];

const OF_SPEED: [&str; 2] = ["latency", "throughput"];

/// The checks that were made, in their order.
pub(crate) struct Examined {
    pub checks: Vec<Check>,
    /// There would have been more.
    pub interrupted: bool,
}

/// Every check in its order. `interrupted` ends them early; scratch objects are removed then as well.
pub(crate) async fn examine(
    patient: Patient,
    sink: Sink<'_>,
    interrupted: impl Future<Output = ()>,
) -> Examined {
    let whole = |checks: Checks<'_>| Examined {
        checks: checks.into_done(),
        interrupted: false,
    };
    let mut checks = Checks::new(sink);
    machine::check(&mut checks, &patient.machine);
    let ring = keys::check(&mut checks, patient.keys);
    let place = match patient.place {
        None => return whole(checks),
        Some(Ok(place)) => place,
        Some(Err(unusable)) => {
            checks.fail(
                "source",
                unusable.why,
                "give what is missing, and run the command again",
            );
            return whole(checks);
        }
    };
    let scratch = Scratch::new(&place.prefix);
    let (usage, quick) = (patient.usage, patient.quick);
    let interrupted = {
        let examination = async {
            let store = &*place.store;
            if let Some(client) = &place.client
                && !network::check(&mut checks, client).await
            {
                return nothing_more(&mut checks, "the service cannot be reached");
            }
            let Some(listed) = bucket::check(&mut checks, store, &place.prefix).await else {
                return no_requests(&mut checks, "the bucket cannot be used");
            };
            keys::of_objects(&mut checks, &place.store, &place.prefix, ring).await;
            bucket::versioning(&mut checks, store).await;
            objects::check(&mut checks, store, &scratch, &listed, usage).await;
            let latency = match checks.is_ok("list") {
                true => speed::latency(&mut checks, store, &place.prefix).await,
                false => {
                    checks.skip("latency", "list failed");
                    None
                }
            };
            match (checks.is_ok("put") && checks.is_ok("get"), quick) {
                (_, true) => checks.skip("throughput", "not measured with --quick"),
                (true, false) => speed::throughput(&mut checks, store, &scratch).await,
                (false, false) => checks.skip("throughput", "nothing can be written and read back"),
            }
            speed::advice(&mut checks, latency);
        };
        tokio::select! {
            () = examination => false,
            () = interrupted => true,
        }
    };
    clean_up(&mut checks, &*place.store, &scratch).await;
    Examined {
        checks: checks.into_done(),
        interrupted,
    }
}

fn nothing_more(checks: &mut Checks<'_>, because: &str) {
    checks.skip_all(&bucket::NAMES, because);
    no_requests(checks, because);
}

fn no_requests(checks: &mut Checks<'_>, because: &str) {
    checks.skip(keys::NAMES[1], because);
    checks.skip_all(&OF_OBJECTS, because);
    checks.skip_all(&OF_SPEED, because);
}

async fn clean_up(checks: &mut Checks<'_>, store: &dyn ObjectStore, scratch: &Scratch) {
    const NAME: &str = "scratch";
    let (made, left) = scratch.remove(store).await;
    let Some((_, error)) = left.first() else {
        if made > 0 {
            checks.ok(NAME, "the objects made for these checks are removed");
        }
        return;
    };
    let keys: Vec<&str> = left.iter().map(|(key, _)| key.as_str()).collect();
    let found = format!(
        "not removed, or perhaps never made: {}: {}",
        keys.join(", "),
        chain(error)
    );
    const REMEDY: &str = "delete them with a key that may";
    let known = checks.verdict("delete") == Some(Verdict::Failed)
        || checks.verdict("multipart") == Some(Verdict::Warning);
    match known {
        _ if !checks.is_ok("put") => checks.skip(NAME, "nothing could be written"),
        // Why they could not be removed has been reported already.
        true => checks.warn(NAME, found, REMEDY),
        false => checks.fail(NAME, found, REMEDY),
    }
}
