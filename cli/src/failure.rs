//! How a command fails: one sentence for people, one exit code for scripts.

use std::process::ExitCode;

/// Exit codes of `redoubt`, besides 0 (done) and 2 (the command line can't be understood, from clap).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// 1: refused or failed; asking again as it is won't help.
    Failed,
    /// 2: a check could not be made; nothing is known.
    Unchecked,
    /// 3: nobody could answer in time (no quorum, nothing listens, not healthy in time); asking again may help.
    Unavailable,
    /// 130: ended at once by a second Ctrl-C.
    Killed,
}

/// Why a command ended without doing what it was asked to.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    code: Code,
    message: String,
}

impl Failure {
    /// Refused, or failed for a reason that stays.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Failure {
            code: Code::Failed,
            message: message.into(),
        }
    }

    /// What was to be checked could not be.
    pub(crate) fn unchecked(message: impl Into<String>) -> Self {
        Failure {
            code: Code::Unchecked,
            message: message.into(),
        }
    }

    /// Nobody answered in time.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Failure {
            code: Code::Unavailable,
            message: message.into(),
        }
    }

    /// Ended by the user before it was done.
    pub(crate) fn killed(message: impl Into<String>) -> Self {
        Failure {
            code: Code::Killed,
            message: message.into(),
        }
    }

    /// What a failed use of a file or a socket amounts to; `doing` is verb and object.
    pub(crate) fn io(doing: impl std::fmt::Display, error: &std::io::Error) -> Self {
        Failure::failed(format!("can't {doing}: {error}"))
    }

    /// The same kind of failure in other words.
    pub(crate) fn with_message(&self, message: impl Into<String>) -> Self {
        Failure {
            code: self.code,
            message: message.into(),
        }
    }

    /// What the process ends with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.code {
            Code::Failed => 1,
            Code::Unchecked => 2,
            Code::Unavailable => 3,
            Code::Killed => 130,
        })
    }
}
