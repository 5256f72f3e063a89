//! Keeps a local copy of a collection: cargo run --example mirror main/documents mirror.json
//!
//! Stop it with Ctrl-C or a kill and start it again: the copy and the token are saved in one step, so it ends equal to
//! the source whatever happened in between. CHANGEFEED_TARGET names another gateway than 127.0.0.1:50051.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use changefeed_client::messages::{ChangeEvent, ChangeType, ItemState, ResourceAddress, StartPosition};
use changefeed_client::{
    BoxError, Category, ChangeFeedClient, Error, TailOptions, after, beginning, collection, connect, parse_item,
    snapshot,
};
use serde_json::{Value, json};

/// The local table. In a database the rows and the token are two tables, written in one transaction; a file that is
/// replaced whole is the same and needs no database.
#[derive(Default)]
struct Mirror {
    token: String,
    items: BTreeMap<String, Value>,
}

impl Mirror {
    fn load(path: &Path) -> Result<Self, BoxError> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let damaged = || format!("{} holds no mirror", path.display());
        let mut held: Value = serde_json::from_slice(&std::fs::read(path)?).map_err(|_| damaged())?;
        let token = held["token"].as_str().ok_or_else(damaged)?.to_owned();
        let items = serde_json::from_value(held["items"].take()).map_err(|_| damaged())?;
        Ok(Self { token, items })
    }

    /// One change, idempotent, as delivery is at least once.
    fn apply(&mut self, event: &ChangeEvent) -> Result<(), BoxError> {
        let components = event.key.iter().flat_map(|key| &key.components);
        let key = json!(components.map(|component| component.value.as_str()).collect::<Vec<_>>()).to_string();
        match (event.change_type(), event.item_state(), event.new_item_json.as_str()) {
            (ChangeType::Truncate, ..) => self.items.clear(),
            (ChangeType::Delete, ..) | (_, ItemState::NotApplicable, _) => {
                self.items.remove(&key);
            }
            (_, state, "") => return Err(format!("{key} came without its item: {}", state.as_str_name()).into()),
            (_, _, text) => {
                self.items.insert(key, parse_item(text)?); // Every digit stays.
            }
        }
        Ok(())
    }

    fn commit(&mut self, path: &Path, token: String) -> Result<(), BoxError> {
        self.token = token;
        let draft = path.with_extension("new");
        std::fs::write(&draft, json!({ "token": self.token, "items": self.items }).to_string())?;
        Ok(std::fs::rename(draft, path)?)
    }
}

/// A snapshot, where the collection has them; otherwise all changes that are retained.
async fn first_position(client: &ChangeFeedClient, address: &ResourceAddress) -> Result<StartPosition, Error> {
    let answer = client.capabilities(address.clone()).await?;
    let can = answer.capabilities.iter().any(|one| one.name == "CHANGE_FEED_SNAPSHOT" && one.supported);
    Ok(if can { snapshot() } else { beginning() })
}

async fn follow(target: &str, address: ResourceAddress, path: &Path) -> Result<(), BoxError> {
    let mut mirror = Mirror::load(path)?;
    let client = connect(target)?;
    let start = match mirror.token.as_str() {
        "" => first_position(&client, &address).await?,
        token => after(token),
    };
    let options = TailOptions::new().on_reconnect(|error, pause| eprintln!("{error}; again in {pause:.1?}"));
    let mut tail = client.tail(address, start, options);
    while let Some(delivery) = tail.try_next().await? {
        for event in &delivery.events {
            mirror.apply(event)?;
        }
        mirror.commit(path, delivery.continuation_token)?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, file] = arguments.as_slice() else {
        eprintln!("usage: mirror CONNECTION/COLLECTION FILE");
        return Ok(ExitCode::from(2));
    };
    let target = std::env::var("CHANGEFEED_TARGET").unwrap_or_else(|_| "127.0.0.1:50051".to_owned());
    let Err(error) = follow(&target, collection(path)?, Path::new(file)).await else { return Ok(ExitCode::SUCCESS) };
    eprintln!("{error}");
    if error.downcast_ref().and_then(Error::category) == Some(&Category::CheckpointExpired) {
        eprintln!("changes are lost to this mirror: remove its file to copy anew");
    }
    Ok(ExitCode::FAILURE)
}
