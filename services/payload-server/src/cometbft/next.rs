//! Who proposes the next height in round 0, before the node is there.
//!
//! CometBFT chooses proposers by priorities: at each height every validator gains its voting power,
//! and the one with the highest priority proposes and pays the power of all. A node tells the
//! priorities of a height as they are after that, so one more step of the same arithmetic names the
//! next proposer, while the validators stay the same. They can change; then a step from the old ones
//! is wrong, and nobody but the node knows.
//!
//! Invariant: a proposer is foretold only if the one foretold for this very height is the one whom
//! the node then named. So the arithmetic, and the constancy of the validators, are believed no
//! further than they have just been right; and whatever is foretold, the node has the last word.

use preconf_payload_api::ValidatorAddress;
use serde::Deserialize;

use super::Round;

/// The validators on a page: the most that a node gives.
pub(super) const PER_PAGE: usize = 100;
/// The most validators that are read: more than any chain has.
const MAX_VALIDATORS: usize = 1_000;
/// How far priorities may be apart, in powers of all validators.
const WINDOW: i128 = 2;

/// What was foretold, and whether that is to be believed.
#[derive(Debug, Default)]
pub(super) struct Foresight {
    height: Option<u64>,
    foretold: Option<Round>,
}

/// A validator at some height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validator {
    address: ValidatorAddress,
    power: i128,
    priority: i128,
}

/// Why the next proposer is not foretold.
#[derive(Debug, thiserror::Error)]
pub(super) enum PageError {
    #[error("reading the validators")]
    Decode(#[source] serde_json::Error),
    #[error("the validators are those of another height, or not these many")]
    Other,
    #[error("the validators have an address or a number that is none")]
    Malformed,
}

#[derive(Deserialize)]
struct Answer {
    result: Page,
}

#[derive(Deserialize)]
struct Page {
    block_height: String,
    validators: Vec<Listed>,
    total: String,
}

/// Numbers are texts, as CometBFT writes those of 64 bits.
#[derive(Deserialize)]
struct Listed {
    address: String,
    voting_power: String,
    proposer_priority: String,
}

impl Foresight {
    /// The node is in this round. Says, once for each height, whether its validators are to be asked
    /// for, and whether who is foretold from them may be believed.
    pub(super) fn enter(&mut self, round: &Round) -> Option<bool> {
        if self.height.replace(round.height) == Some(round.height) {
            return None;
        }
        Some(self.foretold.take() == Some(*round))
    }

    /// Who follows, from the validators of the height that was entered last.
    pub(super) fn foretell(&mut self, validators: &[Validator]) -> Option<Round> {
        let height = self.height?.checked_add(1)?;
        self.foretold = Some(Round { height, round: 0, proposer: next_proposer(validators)? });
        self.foretold
    }
}

/// Adds a page of the validators of a height; `true` if there are more.
pub(super) fn read(
    body: &[u8],
    height: u64,
    validators: &mut Vec<Validator>,
) -> Result<bool, PageError> {
    let Answer { result } = serde_json::from_slice(body).map_err(PageError::Decode)?;
    let Page { block_height, validators: listed, total } = result;
    let total: usize = total.parse().map_err(|_| PageError::Malformed)?;
    let is_page = !listed.is_empty() && validators.len() + listed.len() <= total;
    if block_height.parse() != Ok(height) || !is_page || total > MAX_VALIDATORS {
        return Err(PageError::Other);
    }
    for Listed { address, voting_power, proposer_priority } in listed {
        validators.push(Validator {
            address: address.parse().map_err(|_| PageError::Malformed)?,
            power: voting_power.parse::<u64>().map_err(|_| PageError::Malformed)?.into(),
            priority: proposer_priority.parse::<i64>().map_err(|_| PageError::Malformed)?.into(),
        });
    }
    Ok(validators.len() < total)
}

/// Who proposes at the height after that of these validators. In between CometBFT centres the
/// priorities, too: that changes all of them alike, and so not whose is the highest.
fn next_proposer(validators: &[Validator]) -> Option<ValidatorAddress> {
    let power: i128 = validators.iter().map(|validator| validator.power).sum();
    let priorities = || validators.iter().map(|validator| validator.priority);
    let (spread, window) = (priorities().max()? - priorities().min()?, WINDOW * power);
    // Towards zero, as Go divides.
    let divisor = if window > 0 && spread > window { (spread + window - 1) / window } else { 1 };
    let raised = |validator: &Validator| validator.priority / divisor + validator.power;
    let higher = |one: &&Validator, other: &&Validator| {
        raised(one).cmp(&raised(other)).then_with(|| other.address.cmp(&one.address))
    };
    validators.iter().max_by(higher).map(|validator| validator.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(id: u8) -> ValidatorAddress {
        ValidatorAddress([id; 20])
    }

    /// Validators by the order of their addresses, each with its power and priority.
    fn validators(numbers: &[(i128, i128)]) -> Vec<Validator> {
        let numbered = (0..).zip(numbers);
        let validator =
            |(id, &(power, priority))| Validator { address: address(id), power, priority };
        numbered.map(validator).collect()
    }

    fn next(numbers: &[(i128, i128)]) -> u8 {
        next_proposer(&validators(numbers)).unwrap().0[0]
    }

    #[test]
    fn the_next_proposer_is_the_one_that_cometbft_chooses() {
        // All alike: each gains 100, and the first of three has just paid 300.
        assert_eq!(next(&[(100, -200), (100, 100), (100, 100)]), 1);
        assert_eq!(next(&[(100, -100), (100, -100), (100, 200)]), 2);
        assert_eq!(next(&[(100, 0), (100, 0), (100, 0)]), 0);
        // One with 400 of 600 has proposed: the three are even at 200, and the lowest address wins.
        assert_eq!(next(&[(100, 100), (100, 100), (400, -200)]), 0);
        // With 401 of 601 it is ahead by one, and proposes twice in a row, and not three times.
        assert_eq!(next(&[(100, 100), (100, 100), (401, -200)]), 2);
        assert_eq!(next(&[(100, 200), (100, 200), (401, -400)]), 0);
        assert_eq!(next_proposer(&[]), None);
    }

    #[test]
    fn priorities_that_are_too_far_apart_are_brought_together_before() {
        // 8 apart where twice 3 is allowed: divided by two, towards zero, they are -1, -1 and -5, and
        // the lowest address wins. As they were, or divided downwards, the second one would.
        assert_eq!(next(&[(1, -3), (1, -2), (1, -10)]), 0);
        // 6 apart is allowed.
        assert_eq!(next(&[(1, -3), (1, -2), (1, -8)]), 1);
    }

    #[test]
    fn a_rotation_by_hand_comes_out() {
        // Powers 1, 2 and 3: what they have after each height is written out from CometBFT's rules.
        let heights = [
            ([1, 2, -3], 1),
            // 3, 0 and 3 with their powers.
            ([2, -2, 0], 0),
            ([-3, 0, 3], 2),
            ([-2, 2, 0], 1),
            ([-1, -2, 3], 2),
            ([0, 0, 0], 2),
        ];
        for (at, (priorities, chosen)) in heights.into_iter().enumerate() {
            let numbers: Vec<_> = (1..).zip(priorities).collect();
            assert_eq!(next(&numbers), chosen, "after height {at}");
        }
    }

    fn page(height: &str, total: &str, listed: &[(u8, &str, &str)]) -> String {
        let one = |(id, power, priority): &(u8, &str, &str)| {
            let address = address(*id).to_string().to_ascii_uppercase();
            format!(
                r#"{{"address":"{address}","pub_key":{{"type":"x","value":""}},
                "voting_power":"{power}","proposer_priority":"{priority}"}}"#
            )
        };
        let listed = listed.iter().map(one).collect::<Vec<_>>();
        let (count, listed) = (listed.len(), listed.join(","));
        format!(
            r#"{{"jsonrpc":"2.0","id":-1,"result":{{"block_height":"{height}",
            "validators":[{listed}],"count":"{count}","total":"{total}"}}}}"#
        )
    }

    #[test]
    fn validators_are_read_page_by_page() {
        let mut read_so_far = Vec::new();
        let first = page("7", "3", &[(0, "1", "1"), (1, "2", "2")]);
        assert!(read(first.as_bytes(), 7, &mut read_so_far).unwrap());
        assert!(!read(page("7", "3", &[(2, "3", "-3")]).as_bytes(), 7, &mut read_so_far).unwrap());
        assert_eq!(read_so_far, validators(&[(1, 1), (2, 2), (3, -3)]));
    }

    #[test]
    fn what_are_not_all_validators_of_a_height_is_an_error() {
        let one = [(0, "1", "1")];
        for (height, total, listed) in [
            ("8", "1", &one[..]),
            ("7", "0", &one),
            ("7", "1", &[]),
            ("7", "1001", &one),
            ("7", "x", &one),
            ("7", "1", &[(0, "-1", "1")]),
            ("7", "1", &[(0, "1", "9223372036854775808")]),
        ] {
            let body = page(height, total, listed);
            assert!(read(body.as_bytes(), 7, &mut Vec::new()).is_err(), "{body}");
        }
        assert!(matches!(read(b"{}", 7, &mut Vec::new()), Err(PageError::Decode(_))));
    }

    #[test]
    fn who_is_foretold_is_believed_once_the_node_has_named_the_one_before() {
        let at = |height, round, id| Round { height, round, proposer: address(id) };
        let alike = validators(&[(1, -1), (1, 1)]);
        let mut foresight = Foresight::default();
        assert_eq!(foresight.enter(&at(5, 0, 0)), Some(false));
        assert_eq!(foresight.foretell(&alike), Some(at(6, 0, 1)));
        assert_eq!(foresight.enter(&at(5, 1, 1)), None, "once for each height");
        assert_eq!(foresight.enter(&at(6, 0, 1)), Some(true));
        assert_eq!(foresight.foretell(&alike), Some(at(7, 0, 1)));
        // It is another one's turn: the validators have changed.
        assert_eq!(foresight.enter(&at(7, 0, 0)), Some(false));
        // What is not foretold is not believed later, nor what was foretold of another height.
        assert_eq!(foresight.enter(&at(8, 0, 0)), Some(false));
        assert_eq!(foresight.foretell(&alike), Some(at(9, 0, 1)));
        assert_eq!(foresight.enter(&at(10, 0, 1)), Some(false));
        assert_eq!(foresight.foretell(&alike), Some(at(11, 0, 1)));
        // Nor where the proposer is a later round's.
        assert_eq!(foresight.enter(&at(11, 1, 1)), Some(false));
    }
}
