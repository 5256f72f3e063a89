//! The Rust client's program for the conformance run: see docs/clients.md in the repository.

use std::error::Error as StdError;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use changefeed_client::messages::{ChangeEvent, ReadChangesRequest, StartPosition};
use changefeed_client::{
    BoxError, ChangeFeedClient, ConnectOptions, Delivery, Error, FileCheckpoint, MemoryCheckpoint, TailOptions, Tls,
    after, beginning, collection, now, parse_item, snapshot,
};
use serde_json::{Value, json};

fn say(what: &str, content: Value) {
    let line = json!({ what: content }).to_string() + "\n";
    std::io::stdout().lock().write_all(line.as_bytes()).expect("the driver listens");
}

fn told(event: &ChangeEvent) -> Result<Value, serde_json::Error> {
    let key = event.key.clone().unwrap_or_default();
    // Parsed and written again: it must still have every digit.
    let item = match event.new_item_json.as_str() {
        "" => None,
        text => Some(parse_item(text)?.to_string()),
    };
    Ok(json!({
        "id": event.event_id,
        "type": event.change_type,
        "state": event.item_state,
        "partition_key": key.partition_key,
        "key": key.components.iter().map(|component| &component.value).collect::<Vec<_>>(),
        "item": item,
    }))
}

/// What an argument holds; they are carried out one after the other.
struct Order(Value);

impl Order {
    fn text(&self, name: &str) -> Option<&str> {
        self.0[name].as_str()
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.0[name].as_i64()
    }

    fn span(&self, name: &str) -> Option<Duration> {
        self.0[name].as_u64().map(Duration::from_millis)
    }

    fn start(&self) -> StartPosition {
        match self.text("start") {
            Some("beginning") => beginning(),
            Some("now") => now(),
            Some("snapshot") => snapshot(),
            _ => after(self.text("after").unwrap_or_default()),
        }
    }

    fn options(&self) -> TailOptions {
        let mut options = TailOptions::new()
            .deduplicate(usize::try_from(self.number("deduplicate").unwrap_or_default()).unwrap_or_default())
            .max_batch_size(i32::try_from(self.number("max_batch_size").unwrap_or_default()).unwrap_or_default())
            .on_reconnect(|error, pause| {
                say("reconnect", json!({ "message": error.to_string(), "pause_ms": pause.as_millis() as u64 }));
            });
        if let Some(interval) = self.span("heartbeat_ms") {
            options = options.heartbeat_interval(interval);
        }
        if let Some(longest) = self.span("patience_ms") {
            options = options.patience(longest);
        }
        options
    }

    async fn handle(&self, partition: &str, delivery: Delivery) -> Result<(), serde_json::Error> {
        self.tell(partition, &delivery)?;
        if !delivery.events.is_empty() {
            tokio::time::sleep(self.span("handle_ms").unwrap_or_default()).await;
        }
        Ok(())
    }

    fn tell(&self, partition: &str, delivery: &Delivery) -> Result<(), serde_json::Error> {
        let progress = delivery.snapshot.as_ref();
        let said = json!({
            "token": delivery.continuation_token,
            "live": delivery.live,
            "partition": partition,
            "snapshot": progress.map(|progress| json!({ "items": progress.items, "finished": progress.finished })),
            "warnings": delivery.warnings.iter().map(|warning| &warning.code).collect::<Vec<_>>(),
            "events": delivery.events.iter().map(told).collect::<Result<Vec<_>, _>>()?,
        });
        say("delivery", said);
        Ok(())
    }

    async fn carry_out(self: Arc<Self>, client: &ChangeFeedClient) -> Result<(), Box<dyn StdError + Send + Sync>> {
        let address = collection(self.text("collection").unwrap_or_default())?;
        let most = self.number("max_events").unwrap_or_default();
        match self.text("call") {
            Some("tail") => {
                let mut options = self.options().max_events(most);
                if let Some(path) = self.text("checkpoint") {
                    options = options.checkpoint(FileCheckpoint::new(path));
                }
                let mut tail = client.tail(address, self.start(), options);
                while let Some(delivery) = tail.try_next().await? {
                    self.handle("", delivery).await?;
                }
            }
            Some("drain") => {
                let (mut count, began) = (0, Instant::now());
                let mut tail = client.tail(address, self.start(), TailOptions::new().max_events(most));
                while let Some(delivery) = tail.try_next().await? {
                    count += delivery.events.len();
                }
                say("drained", json!({ "events": count, "seconds": began.elapsed().as_secs_f64() }));
            }
            Some("partitions") => {
                let order = Arc::clone(&self);
                let handle = move |partition: String, delivery: Delivery| {
                    let order = Arc::clone(&order);
                    async move { order.handle(&partition, delivery).await.map_err(BoxError::from) }
                };
                let only = self.0["only"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let (start, options) = (self.start(), self.options().partitions(only));
                match self.text("checkpoint") {
                    Some(path) => {
                        client.read_partitions(address, start, FileCheckpoint::new(path), options, handle).await?
                    }
                    None => {
                        client.read_partitions(address, start, MemoryCheckpoint::default(), options, handle).await?
                    }
                }
            }
            _ => {
                let (address, start_position) = (Some(address), Some(self.start()));
                let request = ReadChangesRequest { address, start_position, ..Default::default() };
                let page = client.read_page(request).await?;
                let mut delivery = Delivery::default();
                delivery.continuation_token = page.continuation_token;
                delivery.snapshot = page.snapshot;
                delivery.warnings = page.warnings;
                delivery.events = page.events;
                self.tell("", &delivery)?;
            }
        }
        Ok(())
    }

    fn client(&self) -> Result<ChangeFeedClient, BoxError> {
        let mut options = ConnectOptions::new();
        if let Some(path) = self.text("roots") {
            options = options.tls(Tls::new().roots(std::fs::read(path)?));
        }
        if let Some(token) = self.text("bearer").map(str::to_owned) {
            options = options.bearer(move || token.clone());
        }
        Ok(options.connect(self.text("target").unwrap_or_default())?)
    }
}

async fn run(order: Order) -> Result<(), BoxError> {
    let client = order.client()?;
    let Err(error) = Arc::new(order).carry_out(&client).await else {
        say("end", json!(true));
        return Ok(());
    };
    match error.downcast_ref::<Error>() {
        Some(Error::Call(failed)) => say(
            "error",
            json!({
                "category": failed.category.as_str(), "reason": failed.reason, "retryable": failed.retryable,
                "provider": failed.provider, "request_id": failed.request_id,
            }),
        ),
        Some(Error::Interrupted(interrupted)) => {
            say("error", json!({ "category": "INTERRUPTED", "reason": interrupted.message, "retryable": true }));
        }
        _ => return Err(error),
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    for argument in std::env::args().skip(1) {
        run(Order(serde_json::from_str(&argument)?)).await?;
    }
    Ok(())
}
