//! Python's pickles as data. A pickle is a program for a stack machine that makes objects by calling what it names; this machine calls
//! nothing: an object that a call would make is kept as the call, inert, for [`torch`](super::torch) to look at.
//!
//! Opcodes: Python's `pickletools`. Objects lie in one list and refer to each other by number, so that a pickle makes at most as many as
//! it has bytes, however it repeats itself.

use anyhow::{Context, Result, bail};
use std::collections::HashMap;

/// Number of an object.
pub(super) type Id = usize;

/// An object of Python.
#[derive(Clone, Debug)]
pub(super) enum Object {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// Bytes, whole numbers of more than 64 bits: nothing that weights need.
    Bytes,
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or function by module and name.
    Global(String),
    /// What a storage is named by.
    Persistent(Id),
    /// What calling `class` with `args` would make, and what was put into it.
    Made {
        class: Id,
        args: Id,
        state: Option<Id>,
        items: Vec<(Id, Id)>,
        list: Vec<Id>,
    },
}

/// The objects of a pickle.
pub(super) struct Objects {
    all: Vec<Object>,
    /// The one that the pickle stands for.
    pub root: Id,
    /// Its bytes.
    pub length: usize,
}

impl Objects {
    pub fn get(&self, id: Id) -> &Object {
        &self.all[id]
    }

    /// The numbers of objects, all of them.
    pub fn ids(&self) -> std::ops::Range<Id> {
        0..self.all.len()
    }

    /// The objects in a tuple or list.
    pub fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Object::Tuple(items) | Object::List(items) => Some(items),
            _ => None,
        }
    }

    pub fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Object::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A number that counts something.
    pub fn count(&self, id: Id) -> Option<usize> {
        match self.get(id) {
            Object::Int(n) => usize::try_from(*n).ok(),
            _ => None,
        }
    }

    pub fn global(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Object::Global(name) => Some(name),
            _ => None,
        }
    }

    /// Keys and values, of whatever class the dictionary is.
    pub fn items(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.get(id) {
            Object::Dict(items) | Object::Made { items, .. } => Some(items),
            _ => None,
        }
    }
}

/// Reads the pickle that `bytes` begin with.
///
/// # Errors
/// A pickle that is cut short or broken; an opcode that no writer of weights uses.
pub(super) fn read(bytes: &[u8]) -> Result<Objects> {
    let mut machine =
        Machine { bytes, at: 0, all: vec![], stack: vec![], marks: vec![], memo: HashMap::new() };
    loop {
        let at = machine.at;
        let op = machine.byte()?;
        if op == b'.' {
            let root = machine.pop()?;
            return Ok(Objects { all: machine.all, root, length: machine.at });
        }
        machine.step(op).with_context(|| format!("its pickle is broken at byte {at}"))?;
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    all: Vec<Object>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
}

impl<'a> Machine<'a> {
    /// One opcode.
    fn step(&mut self, op: u8) -> Result<()> {
        match op {
            0x80 => self.take(1).map(|_| ()), // PROTO
            0x95 => self.take(8).map(|_| ()), // FRAME
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop().map(|_| ()),    // POP
            b'1' => self.marked().map(|_| ()), // POP_MARK
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
                Ok(())
            }
            b'q' | b'r' | b'p' | 0x94 | b'h' | b'j' | b'g' => self.memory(op),
            b'a' | b'e' | b's' | b'u' | 0x90 | b'b' => self.change(op),
            b')' | b']' | b'}' | 0x8f | b't' | b'l' | b'd' | 0x91 | 0x85..=0x87 => self.collect(op),
            b'c' | 0x93 | b'R' | 0x81 | 0x92 | b'i' | b'o' | b'Q' | b'P' => self.name_or_call(op),
            _ => {
                let value = self.value(op)?;
                self.push(value);
                Ok(())
            }
        }
    }

    /// Opcodes of numbers and texts.
    fn value(&mut self, op: u8) -> Result<Object> {
        Ok(match op {
            b'N' => Object::None,
            0x88 => Object::Bool(true),
            0x89 => Object::Bool(false),
            b'K' => Object::Int(self.byte()?.into()),
            b'M' => Object::Int(u16::from_le_bytes(self.array()?).into()),
            b'J' => Object::Int(i32::from_le_bytes(self.array()?).into()),
            b'I' => match self.line()? {
                "00" => Object::Bool(false),
                "01" => Object::Bool(true),
                number => Object::Int(number.parse()?),
            },
            b'L' => Object::Int(self.line()?.trim_end_matches('L').parse()?),
            b'F' => Object::Float(self.line()?.parse()?),
            b'G' => Object::Float(f64::from_be_bytes(self.array()?)),
            0x8a => {
                let length = self.byte()?.into();
                self.long(length)?
            }
            0x8b => {
                let length = self.length(4)?;
                self.long(length)?
            }
            b'X' => self.text(4)?,
            0x8c => self.text(1)?,
            0x8d => self.text(8)?,
            // Texts of Python 2, which are bytes.
            b'U' => self.text(1)?,
            b'T' => self.text(4)?,
            b'V' | b'S' => Object::Text(self.line()?.trim_matches(['\'', '"']).to_string()),
            b'C' => self.held(1)?,
            b'B' => self.held(4)?,
            0x8e | 0x96 => self.held(8)?,
            other => bail!("opcode {other:#04x} is none of torch's"),
        })
    }

    /// Opcodes that put objects into the memo, or fetch them.
    fn memory(&mut self, op: u8) -> Result<()> {
        let number = match op {
            b'q' | b'h' => self.byte()?.into(),
            b'r' | b'j' => self.length(4)?,
            b'p' | b'g' => self.line()?.parse()?,
            _ => self.memo.len(), // MEMOIZE
        };
        match op {
            b'h' | b'j' | b'g' => {
                let id =
                    *self.memo.get(&number).with_context(|| format!("no object {number} in the memo"))?;
                self.stack.push(id);
            }
            _ => {
                let top = self.top()?;
                self.memo.insert(number, top);
            }
        }
        Ok(())
    }

    /// Opcodes that make tuples, lists, dictionaries and sets of what is on the stack.
    fn collect(&mut self, op: u8) -> Result<()> {
        let object = match op {
            b')' => Object::Tuple(vec![]),
            b']' | 0x8f => Object::List(vec![]),
            b'}' => Object::Dict(vec![]),
            b't' => Object::Tuple(self.marked()?),
            b'l' | 0x91 => Object::List(self.marked()?),
            b'd' => Object::Dict(pairs(self.marked()?)),
            _ => {
                let first = self.stack.len().checked_sub((op - 0x84).into()).context("an empty stack")?;
                Object::Tuple(self.stack.split_off(first))
            }
        };
        self.push(object);
        Ok(())
    }

    /// Opcodes that put something into what lies below it.
    fn change(&mut self, op: u8) -> Result<()> {
        let new = match op {
            b'a' | b'b' => vec![self.pop()?],
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.marked()?,
        };
        let below = self.top()?;
        match (op, &mut self.all[below]) {
            (b'a' | b'e' | 0x90, Object::List(list) | Object::Made { list, .. }) => list.extend(new),
            (b's' | b'u', Object::Dict(items) | Object::Made { items, .. }) => items.extend(pairs(new)),
            (b'b', Object::Made { state, .. }) => *state = Some(new[0]),
            (b'b', _) => {}
            (_, other) => bail!("{other:?} takes no items"),
        }
        Ok(())
    }

    /// Opcodes that name something, or would call it.
    fn name_or_call(&mut self, op: u8) -> Result<()> {
        let object = match op {
            b'c' => Object::Global(format!("{}.{}", self.line()?, self.line()?)),
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.all[module], &self.all[name]) {
                    (Object::Text(module), Object::Text(name)) => Object::Global(format!("{module}.{name}")),
                    _ => bail!("a global without a name"),
                }
            }
            b'Q' => Object::Persistent(self.pop()?),
            b'P' => {
                let name = Object::Text(self.line()?.to_string());
                Object::Persistent(self.add(name))
            }
            b'R' | 0x81 => {
                let (args, class) = (self.pop()?, self.pop()?);
                made(class, args)
            }
            0x92 => {
                let (_named, args, class) = (self.pop()?, self.pop()?, self.pop()?);
                made(class, args)
            }
            _ => {
                let class = match op {
                    b'i' => {
                        let class = Object::Global(format!("{}.{}", self.line()?, self.line()?));
                        Some(self.add(class))
                    }
                    _ => None,
                };
                let mut args = self.marked()?;
                let class = match class {
                    Some(class) => class,
                    None if args.is_empty() => bail!("an object without a class"),
                    None => args.remove(0),
                };
                let args = self.add(Object::Tuple(args));
                made(class, args)
            }
        };
        self.push(object);
        Ok(())
    }

    fn add(&mut self, object: Object) -> Id {
        self.all.push(object);
        self.all.len() - 1
    }

    fn push(&mut self, object: Object) {
        let id = self.add(object);
        self.stack.push(id);
    }

    fn pop(&mut self) -> Result<Id> {
        self.stack.pop().context("an empty stack")
    }

    fn top(&self) -> Result<Id> {
        self.stack.last().copied().context("an empty stack")
    }

    /// Everything above the last mark.
    fn marked(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().context("no mark")?;
        // What lay below the mark may have been popped.
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.bytes.len());
        let end = end.context("it ends too early: download it again")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into()?)
    }

    /// A length of `size` bytes.
    fn length(&mut self, size: usize) -> Result<usize> {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(self.take(size)?);
        Ok(usize::try_from(u64::from_le_bytes(bytes))?)
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&b| b == b'\n').context("it ends too early: download it again")?;
        let line = self.take(end + 1)?;
        Ok(std::str::from_utf8(&line[..end])?.trim_end_matches('\r'))
    }

    /// A text with its length in `size` bytes before it.
    fn text(&mut self, size: usize) -> Result<Object> {
        let length = self.length(size)?;
        Ok(Object::Text(String::from_utf8_lossy(self.take(length)?).into_owned()))
    }

    fn held(&mut self, size: usize) -> Result<Object> {
        let length = self.length(size)?;
        self.take(length)?;
        Ok(Object::Bytes)
    }

    /// A whole number of so many bytes, in two's complement.
    fn long(&mut self, length: usize) -> Result<Object> {
        let bytes = self.take(length)?;
        if length > 8 {
            return Ok(Object::Bytes);
        }
        let sign = if bytes.last().is_some_and(|b| b >> 7 == 1) { 0xff } else { 0 };
        let mut whole = [sign; 8];
        whole[..length].copy_from_slice(bytes);
        Ok(Object::Int(i64::from_le_bytes(whole)))
    }
}

fn made(class: Id, args: Id) -> Object {
    Object::Made { class, args, state: None, items: vec![], list: vec![] }
}

/// Keys and values in turn.
fn pairs(flat: Vec<Id>) -> Vec<(Id, Id)> {
    flat.as_chunks::<2>().0.iter().map(|&[key, value]| (key, value)).collect()
}
