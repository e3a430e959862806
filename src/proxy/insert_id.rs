//! Where a session's LAST_INSERT_ID() is known. Pure: `run` asks connections and moves the number between them.

/// Where LAST_INSERT_ID() of the session is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InsertId {
    /// Here. 0: this session has inserted nothing.
    Saved(u64),
    /// Only on the connection that inserted: the parked one, else the one in hand.
    OnConnection,
    /// On that connection too, if its number is one of those that answers have reported since it was taken; else the
    /// connection still has another session's, and the number is `before`. An INSERT that is given its id reports that
    /// one, which is no LAST_INSERT_ID(). Unused places are 0.
    Reported { numbers: [u64; REPORTED], before: u64 },
}

const REPORTED: usize = 4;

impl InsertId {
    pub(super) const NONE: Self = Self::Saved(0);

    pub(super) fn is_on_connection(self) -> bool {
        !matches!(self, Self::Saved(_))
    }

    /// Takes in a number that an answer has reported. None: ask the connection and [`InsertId::settle`] first.
    pub(super) fn report(self, number: u64) -> Option<Self> {
        match self {
            Self::OnConnection => Some(self),
            Self::Saved(before) => {
                let mut numbers = [0; REPORTED];
                numbers[0] = number;
                Some(Self::Reported { numbers, before })
            }
            Self::Reported { mut numbers, before } => {
                let place = numbers.iter_mut().find(|known| **known == 0 || **known == number)?;
                *place = number;
                Some(Self::Reported { numbers, before })
            }
        }
    }

    /// The connection says that its number is `found`.
    pub(super) fn settle(self, found: u64) -> Self {
        match self {
            Self::Reported { numbers, before } if found == 0 || !numbers.contains(&found) => {
                Self::Saved(before)
            }
            Self::Reported { .. } => Self::OnConnection,
            settled => settled,
        }
    }

    /// The same, and the connection goes.
    pub(super) fn save(self, found: u64) -> Self {
        match self.settle(found) {
            Self::OnConnection => Self::Saved(found),
            saved => saved,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_was_given_is_not_taken_for_one_that_was_made() {
        for (reported, found, expected) in [
            (&[7][..], 7, InsertId::Saved(7)),
            (&[900], 33, InsertId::Saved(5)),
            (&[7, 900], 7, InsertId::Saved(7)),
            (&[900, 901, 902, 7], 7, InsertId::Saved(7)),
            (&[900], 0, InsertId::Saved(5)),
        ] {
            let known = reported.iter().try_fold(InsertId::Saved(5), |known, number| known.report(*number));
            assert_eq!(known.map(|known| known.save(found)), Some(expected), "{reported:?} {found}");
        }
    }

    #[test]
    fn more_numbers_than_places_are_settled() {
        let full = [1, 2, 3, 4].iter().try_fold(InsertId::NONE, |known, number| known.report(*number));
        let full = full.expect("there are places");
        assert_eq!(full.report(5), None);
        assert_eq!(full.report(4), Some(full));
        assert_eq!(full.settle(3).report(5), Some(InsertId::OnConnection));
    }
}
