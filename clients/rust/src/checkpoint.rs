//! Where saved tokens are kept, for a consumer without a database of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use crate::errors::BoxError;

/// Saved continuation tokens: by physical partition where one is read, otherwise under [`WHOLE`].
pub type Positions = BTreeMap<String, String>;

/// Names the position of a reader of an entire collection or of a logical partition.
pub const WHOLE: &str = "*";

/// Keeps positions where they outlive this process; for one reader at a time. A consumer with a database of its own
/// needs none: it saves the token in the transaction of its work and starts at [`crate::after`] it.
#[tonic::async_trait]
pub trait Checkpoint: Send + Sync {
    /// What was saved; empty when nothing was.
    async fn load(&self) -> Result<Positions, BoxError>;
    /// Changes some positions, all of them or none; an empty token removes one. Once it returned, no kill loses it.
    async fn save(&self, changes: Positions) -> Result<(), BoxError>;
}

/// Changes some positions; an empty token removes one.
pub(crate) fn change(positions: &mut Positions, changes: Positions) {
    for (name, token) in changes {
        if token.is_empty() {
            positions.remove(&name);
        } else {
            positions.insert(name, token);
        }
    }
}

/// Keeps positions as long as the process lives.
#[derive(Debug, Default)]
pub struct MemoryCheckpoint {
    positions: Mutex<Positions>,
}

#[tonic::async_trait]
impl Checkpoint for MemoryCheckpoint {
    async fn load(&self) -> Result<Positions, BoxError> {
        Ok(self.positions.lock().await.clone())
    }

    async fn save(&self, changes: Positions) -> Result<(), BoxError> {
        change(&mut *self.positions.lock().await, changes);
        Ok(())
    }
}

/// Keeps positions in a file of JSON, which is replaced whole. A damaged file is an error and never an empty one: to
/// begin anew in silence would be to miss changes, or to repeat all.
#[derive(Debug, Clone)]
pub struct FileCheckpoint {
    path: Arc<Path>,
    /// The file's content once it was read. A save that is dropped goes on, and the next one waits for its end.
    known: Arc<Mutex<Option<Positions>>>,
}

impl FileCheckpoint {
    /// Reads and writes nothing yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into().into(), known: Arc::default() }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path, &mut Option<Positions>) -> io::Result<T> + Send + 'static,
    ) -> Result<T, BoxError> {
        let path = Arc::clone(&self.path);
        let mut known = Arc::clone(&self.known).lock_owned().await;
        Ok(spawn_blocking(move || work(&path, &mut known)).await??)
    }
}

#[tonic::async_trait]
impl Checkpoint for FileCheckpoint {
    async fn load(&self) -> Result<Positions, BoxError> {
        self.blocking(|path, known| Ok(known.insert(read(path)?).clone())).await
    }

    async fn save(&self, changes: Positions) -> Result<(), BoxError> {
        self.blocking(|path, known| {
            let mut next = match known {
                Some(positions) => positions.clone(),
                None => read(path)?,
            };
            change(&mut next, changes);
            replace_file(path, &serde_json::to_vec(&next)?)?;
            *known = Some(next);
            Ok(())
        })
        .await
    }
}

fn read(path: &Path) -> io::Result<Positions> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Positions::new()),
        other => other?,
    };
    serde_json::from_slice(&text).map_err(|_| {
        let said = format!("{} holds no positions: bring it back, or remove it to start over", path.display());
        io::Error::new(io::ErrorKind::InvalidData, said)
    })
}

/// Leaves the old content or the new one, whenever the machine stops.
fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let is_new = !path.exists();
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new"); // Always the same name, so that those who are killed leave one at most.
    match std::fs::remove_file(&draft) {
        // Somebody else may have put it there to have it overwritten.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::create_new(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(draft, path)?;
    if is_new {
        make_durable(path);
    }
    Ok(())
}

/// Has the name of a file survive a crash of the machine, where folders can be opened. A new content may come again as the
/// old one, but a file that is gone would have its reader begin elsewhere.
fn make_durable(path: &Path) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Some systems cannot, and keep names in another way.
    let _ = File::open(folder).and_then(|names| names.sync_all());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that does not exist, in a folder of its own that goes with it.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("changefeed-client-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).expect("a folder for the test");
            Self(folder.join("positions.json"))
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(self.0.parent().expect("a folder"));
        }
    }

    fn positions(all: &[(&str, &str)]) -> Positions {
        all.iter().map(|(name, token)| ((*name).to_owned(), (*token).to_owned())).collect()
    }

    #[tokio::test]
    async fn checkpoints_change_some_positions() {
        let place = Place::new("some");
        let both: [Box<dyn Checkpoint>; 2] =
            [Box::new(MemoryCheckpoint::default()), Box::new(FileCheckpoint::new(&place.0))];
        let wanted = positions(&[("b", "2"), ("c", "3")]);
        for checkpoint in both {
            assert_eq!(checkpoint.load().await.expect("nothing yet"), Positions::new());
            checkpoint.save(positions(&[("a", "1"), ("b", "2")])).await.expect("saved");
            checkpoint.save(positions(&[("a", ""), ("c", "3")])).await.expect("saved");
            assert_eq!(checkpoint.load().await.expect("two"), wanted);
        }
        assert_eq!(FileCheckpoint::new(&place.0).load().await.expect("a new process finds them"), wanted);
    }

    #[tokio::test]
    async fn a_damaged_file_is_no_missing_one() {
        let place = Place::new("damaged");
        for content in ["", "[]", "{\"*\": 1}", "null"] {
            std::fs::write(&place.0, content).expect("written");
            let checkpoint = FileCheckpoint::new(&place.0);
            assert!(checkpoint.load().await.is_err(), "{content:?} was read");
            assert!(checkpoint.save(positions(&[("*", "t")])).await.is_err(), "{content:?} was replaced");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_checkpoint_is_never_written_through_a_link_of_somebody_else() {
        let place = Place::new("link");
        let precious = place.0.with_file_name("precious");
        std::fs::write(&precious, "precious").expect("written");
        std::os::unix::fs::symlink(&precious, place.0.with_file_name("positions.json.new")).expect("a link");
        FileCheckpoint::new(&place.0).save(positions(&[("*", "t")])).await.expect("saved");
        assert_eq!(std::fs::read_to_string(&precious).expect("still there"), "precious");
    }

    #[tokio::test]
    async fn a_save_that_is_dropped_goes_before_the_next_one() {
        let place = Place::new("dropped");
        let checkpoint = FileCheckpoint::new(&place.0);
        for _ in 0..50 {
            let dropped = checkpoint.save(positions(&[("*", "old")]));
            let _ = tokio::time::timeout(std::time::Duration::ZERO, dropped).await;
            checkpoint.save(positions(&[("*", "new")])).await.expect("saved");
            assert_eq!(read(&place.0).expect("saved"), positions(&[("*", "new")]));
        }
    }
}
