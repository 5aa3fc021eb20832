//! Snapshots as users name them, the same for all commands: `NAME`, `NAME@…`, an id, `::NAME` or `REPO::NAME`; and `REPO::`, the whole
//! repository.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::LIST_SNAPSHOTS;
use crate::error::{Error, Kind, Result};

/// A snapshot as a user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotName {
    /// The repository before "::", if one is named there.
    pub repository: Option<PathBuf>,
    /// The snapshot in it; none for the whole repository.
    pub snapshot: Option<String>,
}

impl FromStr for SnapshotName {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        // Names of snapshots may have colons, too: one that is no path, and not there, is a part of such a name.
        let is_repository = |path: &str| path.is_empty() || path.contains('/') || Path::new(path).exists();
        let Some((repository, snapshot)) = text.split_once("::").filter(|(path, _)| is_repository(path)) else {
            return Ok(SnapshotName { repository: None, snapshot: Some(text.to_owned()) });
        };
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Ok(SnapshotName { repository: some(repository).map(PathBuf::from), snapshot: some(snapshot) })
    }
}

impl SnapshotName {
    /// The snapshot; fails if none is named.
    pub fn one(&self) -> Result<&str> {
        self.snapshot.as_deref().ok_or_else(|| {
            let message = format!("{self} is a whole repository; name one of its snapshots");
            Error::new(Kind::Usage, message).with_advice(LIST_SNAPSHOTS)
        })
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.repository, &self.snapshot) {
            (None, Some(snapshot)) => f.write_str(snapshot),
            (repository, snapshot) => {
                let repository = repository.as_deref().map(|path| path.display().to_string()).unwrap_or_default();
                write!(f, "{repository}::{}", snapshot.as_deref().unwrap_or_default())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_may_stand_before_a_snapshot() {
        let parts = |text: &str| {
            let Ok(SnapshotName { repository, snapshot }) = text.parse();
            (repository.map(|path| path.display().to_string()), snapshot)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(parts("web@-7d"), (None, some("web@-7d")));
        assert_eq!(parts("::web"), (None, some("web")));
        assert_eq!(parts("/a b::web@01a2"), (some("/a b"), some("web@01a2")));
        assert_eq!(parts("./repo::"), (some("./repo"), None));
        assert_eq!(parts("no-such-repo::web"), (None, some("no-such-repo::web")));
        for text in ["web", "./repo::web", "./repo::", "::", "a::b"] {
            assert_eq!(text.parse::<SnapshotName>().unwrap().to_string(), text);
        }
    }
}
