//! What modules write: opaque, but every piece says what it is (`RDB_MODULE_OPCODE_*`), so that it can be walked
//! without the module.

use super::tag;
use crate::digest::{Digest, Sip};
use crate::error::Fault;
use crate::lexer::{Input, Lexer};

enum Stage {
    Module,
    Opcode,
    Number,
    Float,
    Double,
    Text,
}

/// A value of a module, or what it writes beside all keys.
pub(crate) struct ModuleData {
    stage: Stage,
    sip: Sip,
}

impl ModuleData {
    pub(crate) fn new() -> ModuleData {
        ModuleData {
            stage: Stage::Module,
            sip: Sip::new(tag::MODULE),
        }
    }

    /// Reads on. The digest, when it has ended.
    pub(crate) fn advance(
        &mut self,
        lexer: &mut Lexer,
        input: &mut Input<'_>,
    ) -> Result<Option<Digest>, Fault> {
        loop {
            match self.stage {
                // Name and version of the type's encoding, in 64 bits.
                Stage::Module | Stage::Number => {
                    let Some(n) = lexer.length(input)? else {
                        return Ok(None);
                    };
                    self.sip.number(n);
                    self.stage = Stage::Opcode;
                }
                Stage::Opcode => {
                    let Some(opcode) = lexer.length(input)? else {
                        return Ok(None);
                    };
                    self.sip.number(opcode);
                    self.stage = match opcode {
                        0 => return Ok(Some(self.sip.finish())),
                        1 | 2 => Stage::Number,
                        3 => Stage::Float,
                        4 => Stage::Double,
                        5 => Stage::Text,
                        _ => return Err(Fault::Broken("a module's data has an unknown opcode")),
                    };
                }
                Stage::Float => {
                    let Some(bytes) = lexer.fixed::<4>(input) else {
                        return Ok(None);
                    };
                    self.sip.raw(&bytes);
                    self.stage = Stage::Opcode;
                }
                Stage::Double => {
                    let Some(bytes) = lexer.fixed::<8>(input) else {
                        return Ok(None);
                    };
                    self.sip.raw(&bytes);
                    self.stage = Stage::Opcode;
                }
                Stage::Text => {
                    if !lexer.string(input, &mut self.sip)? {
                        return Ok(None);
                    }
                    self.stage = Stage::Opcode;
                }
            }
        }
    }
}
