//! The operations of the protocol as typed calls.

use xenstore::wire::{Errno, MessageType};

use super::{Client, ClientError, Result, Transport, Tx};

/// What a domain may do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermAccess {
    /// Nothing.
    None,
    /// Read.
    Read,
    /// Write.
    Write,
    /// Both.
    Both,
}

/// One entry of a node's permissions; the first names the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Perm {
    /// The access.
    pub access: PermAccess,
    /// Whom it is for.
    pub domid: u16,
}

impl Perm {
    /// The text of the protocol, such as `r7`.
    #[must_use]
    pub fn to_text(self) -> String {
        let letter = match self.access {
            PermAccess::None => 'n',
            PermAccess::Read => 'r',
            PermAccess::Write => 'w',
            PermAccess::Both => 'b',
        };
        format!("{letter}{}", self.domid)
    }

    /// Reads the text of the protocol.
    #[must_use]
    pub fn from_text(text: &[u8]) -> Option<Self> {
        let (letter, domid) = text.split_first()?;
        let access = match letter {
            b'n' => PermAccess::None,
            b'r' => PermAccess::Read,
            b'w' => PermAccess::Write,
            b'b' => PermAccess::Both,
            _ => return None,
        };
        let domid = std::str::from_utf8(domid).ok()?.parse().ok()?;
        Some(Self { access, domid })
    }
}

fn names(list: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    list.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec)
}

/// Every call fails with [`ClientError`]: the daemon's own errors come as
/// [`ClientError::Daemon`].
#[allow(clippy::missing_errors_doc, reason = "said once, above")]
impl<T: Transport> Client<T> {
    fn done(&mut self, kind: MessageType, tx: Tx, parts: &[&[u8]]) -> Result<()> {
        match self.call(kind, tx, parts)? {
            b"OK\0" => Ok(()),
            _ => Err(ClientError::Malformed("OK expected")),
        }
    }

    /// A node's value.
    pub fn read(&mut self, tx: Tx, path: &str) -> Result<Vec<u8>> {
        self.read_raw(tx, path).map(<[u8]>::to_vec)
    }

    /// A node's value, in the client's own buffer.
    pub fn read_raw(&mut self, tx: Tx, path: &str) -> Result<&[u8]> {
        self.call(MessageType::Read, tx, &[path.as_bytes(), b"\0"])
    }

    /// A node's value; `None` when there is no such node.
    pub fn read_if_there(&mut self, path: &str) -> Result<Option<Vec<u8>>> {
        match self.read(Tx::NONE, path) {
            Ok(value) => Ok(Some(value)),
            Err(ClientError::Daemon(Errno::ENOENT)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets a node's value.
    pub fn write(&mut self, tx: Tx, path: &str, value: &[u8]) -> Result<()> {
        self.done(MessageType::Write, tx, &[path.as_bytes(), b"\0", value])
    }

    /// Creates a node.
    pub fn mkdir(&mut self, tx: Tx, path: &str) -> Result<()> {
        self.done(MessageType::Mkdir, tx, &[path.as_bytes(), b"\0"])
    }

    /// Removes a node and what is below.
    pub fn rm(&mut self, tx: Tx, path: &str) -> Result<()> {
        self.done(MessageType::Rm, tx, &[path.as_bytes(), b"\0"])
    }

    /// Removes a node if it is there.
    pub fn rm_if_there(&mut self, path: &str) -> Result<()> {
        match self.rm(Tx::NONE, path) {
            Err(ClientError::Daemon(Errno::ENOENT)) => Ok(()),
            other => other,
        }
    }

    /// The names of a node's children.
    pub fn directory(&mut self, tx: Tx, path: &str) -> Result<Vec<Vec<u8>>> {
        let list = self.call(MessageType::Directory, tx, &[path.as_bytes(), b"\0"])?;
        Ok(names(list).collect())
    }

    /// A node's children by DIRECTORY_PART, taking up anew when the node
    /// changes in between.
    pub fn directory_by_parts(&mut self, tx: Tx, path: &str) -> Result<Vec<Vec<u8>>> {
        'anew: loop {
            let (mut list, mut generation) = (Vec::new(), None);
            loop {
                let (part_generation, part, last) = self.directory_part(tx, path, list.len())?;
                if *generation.get_or_insert(part_generation) != part_generation {
                    continue 'anew;
                }
                list.extend_from_slice(&part);
                if last {
                    return Ok(names(&list).collect());
                }
            }
        }
    }

    /// One part of a node's list of children, from byte `offset` on: the
    /// generation, the NUL-terminated names, and whether they are the last.
    pub fn directory_part(
        &mut self,
        tx: Tx,
        path: &str,
        offset: usize,
    ) -> Result<(u64, Vec<u8>, bool)> {
        let offset = offset.to_string();
        let parts: [&[u8]; 4] = [path.as_bytes(), b"\0", offset.as_bytes(), b"\0"];
        let answer = self.call(MessageType::DirectoryPart, tx, &parts)?;
        let malformed = ClientError::Malformed("generation and names expected");
        let Some(end) = answer.iter().position(|byte| *byte == 0) else {
            return Err(malformed);
        };
        let generation = std::str::from_utf8(&answer[..end]).ok();
        let Some(generation) = generation.and_then(|text| text.parse().ok()) else {
            return Err(malformed);
        };
        let list = &answer[end + 1..];
        // The last part ends in an additional NUL; an empty list is just that.
        let last = list == b"\0" || list.ends_with(b"\0\0") || list.is_empty();
        let list = if last { &list[..list.len().saturating_sub(1)] } else { list };
        Ok((generation, list.to_vec(), last))
    }

    /// A node's permissions.
    pub fn get_perms(&mut self, tx: Tx, path: &str) -> Result<Vec<Perm>> {
        let list = self.call(MessageType::GetPerms, tx, &[path.as_bytes(), b"\0"])?;
        names(list)
            .map(|text| Perm::from_text(&text).ok_or(ClientError::Malformed("a permission")))
            .collect()
    }

    /// Sets a node's permissions.
    pub fn set_perms(&mut self, tx: Tx, path: &str, perms: &[Perm]) -> Result<()> {
        let mut payload = path.as_bytes().to_vec();
        payload.push(0);
        for perm in perms {
            payload.extend_from_slice(perm.to_text().as_bytes());
            payload.push(0);
        }
        self.done(MessageType::SetPerms, tx, &[&payload])
    }

    /// Registers a watch; an event for the path itself comes at once.
    pub fn watch(&mut self, path: &str, token: &str) -> Result<()> {
        let parts: [&[u8]; 4] = [path.as_bytes(), b"\0", token.as_bytes(), b"\0"];
        self.done(MessageType::Watch, Tx::NONE, &parts)
    }

    /// Removes a watch.
    pub fn unwatch(&mut self, path: &str, token: &str) -> Result<()> {
        let parts: [&[u8]; 4] = [path.as_bytes(), b"\0", token.as_bytes(), b"\0"];
        self.done(MessageType::Unwatch, Tx::NONE, &parts)
    }

    /// Opens a transaction.
    pub fn start(&mut self) -> Result<Tx> {
        let answer = self.call(MessageType::TransactionStart, Tx::NONE, &[b"\0"])?;
        let number = answer.strip_suffix(b"\0").unwrap_or(answer);
        std::str::from_utf8(number)
            .ok()
            .and_then(|text| text.parse().ok())
            .map(Tx)
            .ok_or(ClientError::Malformed("a transaction id"))
    }

    /// Commits a transaction; false when it met a conflict and has to be tried
    /// again from its start.
    pub fn commit(&mut self, tx: Tx) -> Result<bool> {
        match self.done(MessageType::TransactionEnd, tx, &[b"T\0"]) {
            Ok(()) => Ok(true),
            Err(ClientError::Daemon(Errno::EAGAIN)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Drops a transaction.
    pub fn abort(&mut self, tx: Tx) -> Result<()> {
        self.done(MessageType::TransactionEnd, tx, &[b"F\0"])
    }

    /// Introduces a domain.
    pub fn introduce(&mut self, domid: u16, gfn: u64, event_channel: u32) -> Result<()> {
        let payload = format!("{domid}\0{gfn}\0{event_channel}\0");
        self.done(MessageType::Introduce, Tx::NONE, &[payload.as_bytes()])
    }

    /// Forgets a domain.
    pub fn release(&mut self, domid: u16) -> Result<()> {
        let payload = format!("{domid}\0");
        self.done(MessageType::Release, Tx::NONE, &[payload.as_bytes()])
    }

    /// Whether a domain is introduced.
    pub fn is_introduced(&mut self, domid: u16) -> Result<bool> {
        let payload = format!("{domid}\0");
        match self.call(MessageType::IsDomainIntroduced, Tx::NONE, &[payload.as_bytes()])? {
            b"T\0" => Ok(true),
            b"F\0" => Ok(false),
            _ => Err(ClientError::Malformed("T or F expected")),
        }
    }

    /// The home path of a domain.
    pub fn domain_path(&mut self, domid: u16) -> Result<String> {
        let payload = format!("{domid}\0");
        let path = self.call(MessageType::GetDomainPath, Tx::NONE, &[payload.as_bytes()])?;
        let path = path.strip_suffix(b"\0").unwrap_or(path);
        String::from_utf8(path.to_vec()).map_err(|_| ClientError::Malformed("a path"))
    }

    /// Gives `domid` the rights of `target`.
    pub fn set_target(&mut self, domid: u16, target: u16) -> Result<()> {
        let payload = format!("{domid}\0{target}\0");
        self.done(MessageType::SetTarget, Tx::NONE, &[payload.as_bytes()])
    }

    /// Drops all watches and transactions of the connection.
    pub fn reset_watches(&mut self) -> Result<()> {
        self.done(MessageType::ResetWatches, Tx::NONE, &[b"\0"])
    }

    /// A CONTROL command with its arguments.
    pub fn control(&mut self, arguments: &[&str]) -> Result<Vec<u8>> {
        let mut payload = arguments.join("\0").into_bytes();
        payload.push(0);
        self.call(MessageType::Control, Tx::NONE, &[&payload]).map(<[u8]>::to_vec)
    }
}
