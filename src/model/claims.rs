//! Claims of the volumes that servers keep their data on, where discovery can know of them.

use std::sync::Arc;

use super::server::ServerId;

/// One claim of a StatefulSet, whose name is `TEMPLATE-POD`. It is there also while its pod is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) name: Arc<str>,
    /// What the volume holds at the most, in bytes.
    pub(crate) capacity: Option<u64>,
}

impl Claim {
    pub(crate) fn is_of(&self, server: &ServerId) -> bool {
        self.name.strip_suffix(server.as_str()).is_some_and(is_template)
    }

    /// The server that it belongs to, if that is one of the StatefulSet that `sibling` is of.
    pub(crate) fn owner(&self, sibling: &ServerId) -> Option<ServerId> {
        let (set, _) = sibling.as_str().rsplit_once('-')?;
        let (front, ordinal) = self.name.rsplit_once('-')?;
        let owner = ServerId::new(&format!("{set}-{ordinal}"));
        (front.strip_suffix(set).is_some_and(is_template) && owner.ordinal().is_some()).then_some(owner)
    }
}

fn is_template(text: &str) -> bool {
    text.strip_suffix('-').is_some_and(|template| !template.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_claim() {
        for (name, sibling, owner) in [
            ("data-mysql-2", "mysql-0", Some("mysql-2")),
            ("my-data-my-sql-12", "my-sql-0", Some("my-sql-12")),
            ("data-other-2", "mysql-0", None),
            ("mysql-2", "mysql-0", None),
            ("-mysql-2", "mysql-0", None),
            ("data-mysql", "mysql-0", None),
            ("data-mysql-x", "mysql-0", None),
            ("data-mysql-2", "mysql", None),
        ] {
            let claim = Claim { name: Arc::from(name), capacity: None };
            assert_eq!(claim.owner(&ServerId::new(sibling)), owner.map(ServerId::new), "{name}");
            if let Some(owner) = owner {
                assert!(claim.is_of(&ServerId::new(owner)) && !claim.is_of(&ServerId::new(sibling)));
            }
        }
    }
}
