//! A tree of tests → disjunctive normal form, as the programs evaluate it.

use netprobe_common::{
    config::{FilterClause, FilterTest},
    limits::{FILTER_CLAUSES, FILTER_TESTS},
    wire,
};

use super::{Compiled, FilterError, parse::Expr};

/// Clauses between two steps. More can only become fewer by luck.
const BETWEEN_MAX: usize = 16 * FILTER_CLAUSES;

/// The filter of `expr`.
pub(super) fn lower(expr: &Expr) -> Result<Compiled, FilterError> {
    let mut tests = Vec::new();
    let clauses = clauses(expr, false, &mut tests)?;
    if clauses.len() > FILTER_CLAUSES {
        return Err(too_many(clauses.len()));
    }
    if clauses.is_empty() {
        return Err(FilterError::whole("no packet can pass it: it asks for two things that exclude each other"));
    }
    let mut compiled = Compiled {
        filter: wire::zeroed(),
        tests: u32::try_from(tests.len()).unwrap_or(u32::MAX),
        clauses: u32::try_from(clauses.len()).unwrap_or(u32::MAX),
    };
    compiled.filter.tests[..tests.len()].copy_from_slice(&tests);
    compiled.filter.clauses[..clauses.len()].copy_from_slice(&clauses);
    Ok(compiled)
}

fn too_many(clauses: usize) -> FilterError {
    FilterError::whole(format!(
        "it is too large: {clauses} alternatives or more, {FILTER_CLAUSES} are possible; leave something out"
    ))
}

/// The alternatives of `expr`, or of its opposite. Negation is pushed down on the way.
fn clauses(expr: &Expr, negated: bool, tests: &mut Vec<FilterTest>) -> Result<Vec<FilterClause>, FilterError> {
    match (expr, negated) {
        (Expr::Test(test), _) => {
            let bit = bit(test, tests)?;
            Ok(vec![if negated { FilterClause { need: 0, deny: bit } } else { FilterClause { need: bit, deny: 0 } }])
        }
        (Expr::Not(inner), _) => clauses(inner, !negated, tests),
        (Expr::And(a, b), false) | (Expr::Or(a, b), true) => {
            let (a, b) = (clauses(a, negated, tests)?, clauses(b, negated, tests)?);
            let mut both = Vec::new();
            for a in &a {
                for b in &b {
                    let clause = FilterClause { need: a.need | b.need, deny: a.deny | b.deny };
                    if possible(clause, tests) {
                        add(&mut both, clause)?;
                    }
                }
            }
            Ok(both)
        }
        (Expr::Or(a, b), false) | (Expr::And(a, b), true) => {
            let mut either = clauses(a, negated, tests)?;
            for clause in clauses(b, negated, tests)? {
                add(&mut either, clause)?;
            }
            Ok(either)
        }
    }
}

/// The test's bit; one and the same test has one.
fn bit(test: &FilterTest, tests: &mut Vec<FilterTest>) -> Result<u32, FilterError> {
    let index = match tests.iter().position(|known| known == test) {
        Some(index) => index,
        None if tests.len() == FILTER_TESTS => {
            return Err(FilterError::whole(format!(
                "it is too large: more than {FILTER_TESTS} different tests; leave something out"
            )));
        }
        None => {
            tests.push(*test);
            tests.len() - 1
        }
    };
    Ok(1 << index)
}

/// Adds an alternative, unless another one covers it; takes out those that it covers.
fn add(clauses: &mut Vec<FilterClause>, new: FilterClause) -> Result<(), FilterError> {
    let covers = |a: &FilterClause, b: &FilterClause| a.need & !b.need == 0 && a.deny & !b.deny == 0;
    if clauses.iter().any(|old| covers(old, &new)) {
        return Ok(());
    }
    clauses.retain(|old| !covers(&new, old));
    clauses.push(new);
    if clauses.len() > BETWEEN_MAX { Err(too_many(clauses.len())) } else { Ok(()) }
}

/// Whether any packet can pass: no test needed and denied, no two protocols, families or EtherTypes at once.
fn possible(clause: FilterClause, tests: &[FilterTest]) -> bool {
    let needed = |part: fn(&FilterTest) -> u16| {
        let mut values = tests
            .iter()
            .enumerate()
            .filter(|(i, _)| clause.need & (1 << i) != 0)
            .map(|(_, t)| part(t))
            .filter(|v| *v != 0);
        values.next().is_none_or(|first| values.all(|other| other == first))
    };
    clause.need & clause.deny == 0
        && needed(|test| test.proto.into())
        && needed(|test| test.family.into())
        && needed(ether_type)
}

/// The EtherType that a test asks for: also by what only a packet of one family can be.
fn ether_type(test: &FilterTest) -> u16 {
    match (test.ether_type, test.family, test.proto) {
        (0, 4, _) => 0x0800,
        (0, 6, _) => 0x86dd,
        (named, ..) => named,
    }
}
