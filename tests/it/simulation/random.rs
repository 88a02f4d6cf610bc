//! Random histories of a correct service, which the oracle must accept: a small service around the real state machine,
//! with many calls at the same time, withdrawals and crashes.

use std::collections::{BTreeMap, HashMap, HashSet};

use tally_ledger::{Links, PlacedRecord, transaction::put_transaction};

use super::*;

/// The content of a recorded transaction, and its outcome.
type Content = (Vec<u8>, Result<Committed, Rejection>);

/// A log in memory. Each command has its own block.
#[derive(Debug, Default)]
struct MemoryLog {
    records: HashMap<Vec<u8>, Content>,
    entries: u64,
    committed: u64,
    block: u64,
    ordinal: u64,
    last: Option<Committed>,
    /// The records, in the form that the oracle reads.
    log: Vec<Logged>,
}

/// A service that executes one call after the other.
struct Service {
    ledger: Ledger,
    log: MemoryLog,
    recorded: BTreeMap<String, Recorded>,
    /// The executed requests, which are executed again after a crash.
    executed: Vec<Request>,
    durable: usize,
}

/// A call in flight.
struct Flight {
    id: CallId,
    request: Request,
    /// The reply, and the number of executed calls that must be durable before it.
    reply: Option<(Answer, usize)>,
    abandoned: bool,
}

/// A run of random calls.
struct Run {
    seed: u64,
    oracle: Oracle,
    service: Service,
    flights: Vec<Flight>,
    calls: CallId,
}

impl TransactionLog for MemoryLog {
    type Error = Malformed;

    fn find(&mut self, key: TransactionKey<'_>) -> Result<Option<RecordedTransaction<'_>>, Malformed> {
        let found = self.records.get(key.id).map(|(content, outcome)| {
            Ok(RecordedTransaction {
                transaction: TransactionView::parse(content)?,
                effects: None,
                outcome: *outcome,
            })
        });
        found.transpose()
    }

    fn next_entry(&self) -> u64 {
        self.entries + 1
    }

    fn find_record(&mut self, _: RecordKey<'_>) -> Result<Option<PlacedRecord<'_>>, Malformed> {
        unreachable!("no transaction names another one")
    }

    fn record_at(&mut self, _: u64) -> Result<PlacedRecord<'_>, Malformed> {
        unreachable!("there are no holds")
    }

    fn next_place(&self) -> u64 {
        self.entries
    }

    fn next_committed(&self) -> Committed {
        Committed {
            sequence: self.committed + 1,
            time: self.block_time().plus_nanos(self.ordinal),
        }
    }

    fn block_time(&self) -> Timestamp {
        WALL_BASE.plus_nanos(self.block * 1000)
    }

    fn append(
        &mut self,
        key: Option<TransactionKey<'_>>,
        _: Option<RecordKey<'_>>,
        record: NewRecord<'_>,
        _: Links<'_>,
    ) -> Committed {
        self.entries += 1;
        let next = self.next_committed();
        let (content, outcome) = match record {
            NewRecord::Committed { content, .. } => (content, Ok(next)),
            NewRecord::Rejected {
                content, rejection, ..
            } => (content, Err(rejection)),
            NewRecord::AccountCreated { account, .. } => {
                self.log.push(Logged {
                    entry: Entry::Created {
                        account: account.clone(),
                        time: next.time,
                    },
                    block: self.block,
                    block_time: self.block_time(),
                });
                return next;
            }
            NewRecord::Derived { .. } | NewRecord::HoldExpired { .. } | NewRecord::AccountUpdated { .. } => {
                unreachable!("the service has no holds and updates no accounts")
            }
        };
        if outcome.is_ok() {
            self.committed += 1;
            self.ordinal += 1;
        }
        self.last = Some(next);
        self.records
            .insert(key.unwrap().id.to_vec(), (content.to_vec(), outcome));
        next
    }
}

impl Service {
    fn new() -> Self {
        Service {
            ledger: Ledger::new(7),
            log: MemoryLog::default(),
            recorded: BTreeMap::new(),
            executed: Vec::new(),
            durable: 0,
        }
    }

    fn execute(&mut self, request: &Request) -> Answer {
        self.log.block += 1;
        self.log.ordinal = 0;
        self.executed.push(request.clone());
        match request {
            Request::Transactions(sent) => {
                let outcomes = sent.iter().map(|sent| self.transaction(sent)).collect();
                Answer::Outcomes(outcomes, Vec::new())
            }
            Request::CreateAccounts(new) => match self.ledger.create_accounts(new.clone(), &mut self.log) {
                AccountOutcome::Created(_) => Answer::Created(
                    new.iter()
                        .map(|new| self.ledger.account(&new.id).unwrap())
                        .collect(),
                ),
                AccountOutcome::Reused { place, field } => Answer::Reused { place, field },
                AccountOutcome::Full(full) => panic!("{full}"),
            },
            Request::Account(id) => Answer::Account(self.ledger.account(id)),
            Request::CreateMissing(new) => {
                let mut seen = HashSet::new();
                let missing: Vec<_> = new
                    .iter()
                    .filter(|new| self.ledger.account(&new.id).is_none() && seen.insert(&new.id))
                    .cloned()
                    .collect();
                let ids: Vec<_> = missing.iter().map(|new| new.id.clone()).collect();
                self.ledger.create_accounts(missing, &mut self.log);
                Answer::Created(ids.iter().map(|id| self.ledger.account(id).unwrap()).collect())
            }
            Request::Accounts { from, limit } => {
                let from = usize::try_from(*from).unwrap();
                let accounts = self.accounts();
                let page: Vec<_> = accounts.iter().skip(from).take(*limit).cloned().collect();
                let end = from + page.len();
                let next = (end < accounts.len()).then(|| u32::try_from(end).unwrap());
                Answer::Accounts(page, next)
            }
            Request::Transaction(id) => Answer::Transaction(self.recorded.get(id).cloned()),
            Request::Update(_) | Request::Hold(_) | Request::Holds => {
                unreachable!("the run has no holds and no updates")
            }
        }
    }

    fn transaction(&mut self, sent: &Transaction) -> Outcome {
        let mut bytes = Vec::new();
        let heading = Heading {
            id: sent.id.as_bytes(),
            phase: Phase::Posted,
            effective_time: sent.effective_time,
            metadata: &sent.metadata(),
            names: Names::Nothing,
            keep_remaining: false,
            pending_timeout: None,
        };
        let transfers = sent.legs.iter().map(|leg| Transfer {
            debit: leg.debit.as_str(),
            credit: leg.credit.as_str(),
            amount: Amount::new(leg.amount),
            code: leg.code,
            rule: AmountRule::Exact,
        });
        put_transaction(&mut bytes, &heading, transfers);
        self.log.last = None;
        let view = TransactionView::parse(&bytes).unwrap();
        let outcome = self.ledger.process(&view, &mut self.log).unwrap();
        if let Some(place) = self.log.last {
            let rejection = match outcome {
                Outcome::Rejected { rejection, .. } => Some(rejection),
                Outcome::Committed { .. } | Outcome::Reused { .. } => None,
            };
            let legs = if rejection.is_none() { &sent.legs[..] } else { &[] };
            let recorded = Recorded {
                transaction: sent.clone(),
                rejection,
                place,
                position: self.log.log.len() as u64,
                moved: legs.iter().map(|leg| moved(leg, leg.amount, 0, 0)).collect(),
            };
            self.log.log.push(Logged {
                entry: Entry::Transaction(recorded.clone()),
                block: self.log.block,
                block_time: self.log.block_time(),
            });
            self.recorded.insert(sent.id.clone(), recorded);
        }
        outcome
    }

    fn accounts(&self) -> Vec<AccountSnapshot> {
        let accounts = self.ledger.accounts();
        accounts
            .indexes_from(AccountIndex(0))
            .map(|index| accounts.snapshot(index).unwrap())
            .collect()
    }

    fn state(&self) -> State {
        State {
            log: self.log.log.clone(),
            holds: Some(Vec::new()),
            found: Vec::new(),
            accounts: self.accounts(),
            transactions: self
                .recorded
                .iter()
                .map(|(id, found)| (id.clone(), Ok(Some(found.clone()))))
                .collect(),
            figures: None,
        }
    }
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut oracle = Oracle::new();
        oracle.queue_is_small();
        Run {
            seed,
            oracle,
            service: Service::new(),
            flights: Vec::new(),
            calls: 0,
        }
    }

    /// A random number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.seed >> 33) % end
    }

    fn account_id(&mut self) -> String {
        format!("a{}", self.below(8))
    }

    fn transaction(&mut self) -> Transaction {
        let ids = 10 + self.calls / 3;
        let id = format!("t{}", self.below(ids));
        // Most retries have the same content.
        let content = if self.below(5) == 0 {
            self.below(1000)
        } else {
            id.len() as u64
        };
        let seed = std::mem::replace(&mut self.seed, content.wrapping_mul(77) ^ hash(&id));
        let legs = (0..=self.below(3)).map(|_| {
            leg(
                &self.account_id(),
                &self.account_id(),
                1 + u128::from(self.below(50)),
            )
        });
        let legs = legs.collect();
        self.seed = seed;
        Transaction {
            effective_time: content.is_multiple_of(3).then_some(EffectiveTime {
                seconds: -7,
                nanos: u32::from(content > 500),
            }),
            note: match content % 5 {
                0 => Note::Long,
                1 => Note::Short(1),
                _ => Note::None,
            },
            ..Transaction::new(id, legs)
        }
    }

    fn request(&mut self) -> Request {
        match self.below(12) {
            0 => {
                let rules = [
                    BalanceRule::Unlimited,
                    BalanceRule::CreditBalance,
                    BalanceRule::DebitBalance,
                ];
                let new = (0..=self.below(2)).map(|_| {
                    let id = self.account_id();
                    let rule = rules[usize::try_from(hash(&id) % 3).unwrap()];
                    let mut new = account(&id, rule).account;
                    if self.below(9) == 0 {
                        new.status = AccountStatus::Frozen;
                    }
                    if hash(&id).is_multiple_of(5) {
                        new.asset = "USD".to_owned();
                    }
                    new
                });
                let new = new.collect();
                if self.below(3) == 0 {
                    Request::CreateMissing(new)
                } else {
                    Request::CreateAccounts(new)
                }
            }
            1 => Request::Account(self.account_id()),
            2 => Request::Accounts {
                from: u32::try_from(self.below(5)).unwrap(),
                limit: 1 + usize::try_from(self.below(9)).unwrap(),
            },
            3 => Request::Transaction(self.transaction().id),
            4 => Request::Transactions((0..=self.below(5)).map(|_| self.transaction()).collect()),
            _ => Request::Transactions(vec![self.transaction()]),
        }
    }

    fn step(&mut self) -> Result<(), Violation> {
        let place = usize::try_from(self.below(self.flights.len().max(1) as u64)).unwrap();
        match self.below(20) {
            0..6 if self.flights.len() < 12 => {
                let (id, request) = (self.calls, self.request());
                self.calls += 1;
                self.oracle.invoked(id, &call(request.clone()));
                self.flights.push(Flight {
                    id,
                    request,
                    reply: None,
                    abandoned: false,
                });
            }
            6..12 => {
                if let Some(flight) = self.flights.get_mut(place)
                    && flight.reply.is_none()
                {
                    let answer = self.service.execute(&flight.request);
                    flight.reply = Some((answer, self.service.executed.len()));
                }
            }
            12..14 => self.service.durable = self.service.executed.len(),
            14 if self.below(8) == 0 => {
                if let Some(flight) = self.flights.get_mut(place) {
                    self.oracle.abandoned(flight.id);
                    flight.abandoned = true;
                }
            }
            15 if self.below(8) == 0 => {
                if self
                    .flights
                    .get(place)
                    .is_some_and(|flight| flight.reply.is_none() && !flight.abandoned)
                {
                    let flight = self.flights.remove(place);
                    self.oracle.answered(flight.id, &queue_full())?;
                }
            }
            16 if self.below(30) == 0 => self.crash()?,
            _ => {
                let durable = self.service.durable;
                if self.flights.get(place).is_some_and(|flight| {
                    flight
                        .reply
                        .as_ref()
                        .is_some_and(|(_, executed)| *executed <= durable)
                }) {
                    let flight = self.flights.remove(place);
                    if !flight.abandoned {
                        let (answer, _) = flight.reply.unwrap();
                        self.oracle.answered(flight.id, &Ok(answer))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Crashes the service, and loses some of the commands that are not durable.
    fn crash(&mut self) -> Result<(), Violation> {
        let executed = std::mem::take(&mut self.service.executed);
        let durable = self.service.durable;
        let kept = durable + usize::try_from(self.below((executed.len() - durable) as u64 + 1)).unwrap();
        self.service = Service::new();
        for request in executed.iter().take(kept) {
            self.service.execute(request);
        }
        self.service.durable = kept;
        self.flights.clear();
        self.oracle.died();
        self.oracle.examine(&self.service.state())
    }
}

fn hash(text: &str) -> u64 {
    text.bytes().fold(17, |hash, byte| hash * 31 + u64::from(byte))
}

#[test]
fn random_histories_of_a_correct_service_are_accepted() {
    for seed in 0..200 {
        let mut run = Run::new(seed);
        for _ in 0..2000 {
            run.step()
                .unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        }
        run.crash()
            .unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    }
}
