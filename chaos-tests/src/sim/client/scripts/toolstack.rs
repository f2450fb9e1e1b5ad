//! What a toolstack says: it makes the guests' homes, introduces them, releases
//! some and brings them back, and asks about all of it.

use std::collections::VecDeque;

use xenstore::wire::{Errno, MessageType};

use super::{is_quarantine, pair, path, strings, think};
use crate::rng::Rng;
use crate::sim::client::RegisterEvent;
use crate::sim::client::line::Line;
use crate::sim::client::script::{Script, Turn};

/// Domains that come and go and that no client speaks for.
const SPARE: [u16; 3] = [21, 22, 23];

/// See the module.
#[derive(Debug)]
pub(in crate::sim::client) struct Toolstack {
    think_us: u64,
    /// Domains that clients speak for.
    guests: Vec<u16>,
    todo: VecDeque<(MessageType, Vec<u8>)>,
    /// The one that is under way, to be asked again on a new connection.
    asked: Option<(MessageType, Vec<u8>)>,
    /// Releases guests that clients speak for, too.
    rough: bool,
    /// The guests were made once more, for the end.
    ending: bool,
}

impl Toolstack {
    pub(in crate::sim::client) fn new(guests: Vec<u16>, think_us: u64, rough: bool) -> Self {
        let mut toolstack =
            Self { think_us, guests, todo: VecDeque::new(), asked: None, rough, ending: false };
        for domid in toolstack.guests.clone() {
            toolstack.create(domid);
        }
        toolstack
    }

    fn create(&mut self, domid: u16) {
        let home = format!("/local/domain/{domid}");
        let data = format!("{home}/data");
        let (domain, owner) = (domid.to_string(), format!("n{domid}"));
        let requests = [
            (MessageType::Mkdir, path(&home)),
            (MessageType::SetPerms, strings(&[&home, "n0", &format!("r{domid}")])),
            (MessageType::Mkdir, path(&data)),
            (MessageType::SetPerms, strings(&[&data, &owner])),
            (MessageType::Write, pair(&format!("{home}/name"), b"guest")),
            (MessageType::Introduce, strings(&[&domain, "1", "5"])),
        ];
        self.todo.extend(requests);
    }

    fn destroy(&mut self, domid: u16) {
        let domain = domid.to_string();
        let requests = [
            (MessageType::Release, strings(&[&domain])),
            (MessageType::Rm, path(&format!("/local/domain/{domid}"))),
        ];
        self.todo.extend(requests);
    }

    fn plan(&mut self, rng: &mut Rng) {
        let spare = *rng.pick(&SPARE);
        let domain = spare.to_string();
        match rng.below(20) {
            0..4 => self.create(spare),
            4..7 => self.destroy(spare),
            7 if self.rough && !self.guests.is_empty() => {
                let guest = *rng.pick(&self.guests);
                self.destroy(guest);
                self.create(guest);
            }
            8 => {
                let target = rng.pick(&SPARE).to_string();
                self.todo.push_back((MessageType::SetTarget, strings(&[&domain, &target])));
            }
            9 => self.todo.push_back((MessageType::Resume, strings(&[&domain]))),
            10 => self.todo.push_back((MessageType::Control, strings(&["print", "hello"]))),
            11 => self.todo.push_back((MessageType::Control, strings(&["check"]))),
            12 => {
                let payload = strings(&[&domain, "nodes", "500"]);
                self.todo.push_back((MessageType::SetQuota, payload));
            }
            13 => self.todo.push_back((MessageType::GetQuota, strings(&["nodes"]))),
            14 => self.todo.push_back((MessageType::GetDomainPath, strings(&[&domain]))),
            _ => self.todo.push_back((MessageType::IsDomainIntroduced, strings(&[&domain]))),
        }
    }
}

impl Script for Toolstack {
    fn turn(
        &mut self,
        line: &mut Line,
        rng: &mut Rng,
        now_us: u64,
        _registers: &mut Vec<RegisterEvent>,
    ) -> Turn {
        let until_us = now_us + think(rng, self.think_us);
        if self.asked.is_some() {
            return Turn::Think { until_us };
        }
        if self.todo.is_empty() {
            self.plan(rng);
        }
        if let Some((kind, payload)) = self.todo.pop_front() {
            line.ask(kind.to_u32(), 0, &payload, 0);
            self.asked = Some((kind, payload));
        }
        Turn::Think { until_us }
    }

    fn answer(
        &mut self,
        _tag: u64,
        answer: Result<&[u8], Errno>,
        _rng: &mut Rng,
        _now_us: u64,
        _registers: &mut Vec<RegisterEvent>,
    ) -> Result<(), String> {
        let (kind, payload) = self.asked.take().ok_or("an answer to no request")?;
        match answer {
            // Guests wait for it.
            Err(errno) if is_quarantine(errno) => {
                self.todo.push_front((kind, payload));
                Ok(())
            }
            // Of a domain that is not there, or no more, or not yet.
            Ok(_) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(format!("{kind:?} was answered {errno}")),
        }
    }

    fn is_settled(&mut self) -> bool {
        if !self.ending {
            self.ending = true;
            for domid in self.guests.clone() {
                self.create(domid);
            }
        }
        self.todo.is_empty() && self.asked.is_none()
    }

    fn lost(&mut self, _registers: &mut Vec<RegisterEvent>) {
        if let Some(asked) = self.asked.take() {
            self.todo.push_front(asked);
        }
    }
}
