//! One `.io` file: comments, requests (`>>`) and the responses to them (`<<`).

use std::path::Path;

use serde_json::Value;

use crate::conformance::Failure;

/// What a comment says of a case whose values are not fixed.
const SPEC_ONLY: &str = "speconly:";

/// One case of the suite.
#[derive(Clone, Debug)]
pub(super) struct Case {
    /// `METHOD/CASE`.
    pub(super) name: String,
    /// Whether only the shape of the responses is fixed.
    pub(super) spec_only: bool,
    pub(super) exchanges: Vec<Exchange>,
}

/// A request and the response to it.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    /// The request, as it is sent.
    pub(super) request: String,
    pub(super) response: Value,
}

impl Case {
    /// All cases of a suite, in the order of their names.
    pub(super) fn read_all(suite: &Path) -> Result<Vec<Self>, Failure> {
        let files = Failure::files(suite, "io", ".io files")?;
        files.iter().map(|path| Self::read(suite, path)).collect()
    }

    fn read(suite: &Path, path: &Path) -> Result<Self, Failure> {
        let name = path.strip_prefix(suite).unwrap_or(path).with_extension("");
        let text = Failure::read_text(path)?;
        let mut case = Self {
            name: name.to_string_lossy().into_owned(),
            spec_only: false,
            exchanges: Vec::new(),
        };
        let mut request = None;
        for (at, line) in text.lines().enumerate() {
            let wrong = |what| Failure::Case { path: path.to_owned(), line: at + 1, what };
            let line = line.trim();
            if let Some(comment) = line.strip_prefix("//") {
                case.spec_only |= comment.trim_start().starts_with(SPEC_ONLY);
            } else if let Some(sent) = line.strip_prefix(">>") {
                if request.replace(sent.trim().to_owned()).is_some() {
                    return Err(wrong("a request before the response to the last one"));
                }
            } else if let Some(response) = line.strip_prefix("<<") {
                let request = request.take().ok_or_else(|| wrong("a response to no request"))?;
                let response = serde_json::from_str(response)
                    .map_err(|source| Failure::Json { path: path.to_owned(), source })?;
                case.exchanges.push(Exchange { request, response });
            } else if !line.is_empty() {
                return Err(wrong("neither a comment nor a request nor a response"));
            }
        }
        if request.is_some() || case.exchanges.is_empty() {
            return Err(Failure::Nothing { what: "response", path: path.to_owned() });
        }
        Ok(case)
    }
}
