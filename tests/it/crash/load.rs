//! The clients of the crash harness: each makes one call after the other until its connection breaks or the load is
//! stopped.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tally::proto::{
    GetAccountRequest, GetTransactionRequest, ProcessTransactionRequest, ProcessTransactionsRequest,
    StreamTransactionsRequest, StreamTransactionsResponse, TransactionResult,
    account_service_client::AccountServiceClient, transaction, transaction_result::Outcome,
    transaction_service_client::TransactionServiceClient,
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Request, Status, Streaming, transport::Channel};
use tonic_types::StatusExt;

use super::{
    Random,
    book::{Book, Known, Place, account_id, status_of},
};

/// Number of clients that send single transactions.
const SINGLE: usize = 6;
/// Number of clients that send batches.
const BATCH: usize = 2;
/// Number of clients that send streams.
const STREAM: usize = 2;
/// Number of clients that read.
const READ: usize = 2;
/// Maximum number of transactions in a batch.
const BATCH_TRANSACTIONS_MAX: usize = 60;
/// Number of transactions of a stream.
const STREAM_TRANSACTIONS: usize = 300;
/// Number of transactions of a stream in flight.
const WINDOW: usize = 32;
/// Pause of a client after the service has refused a call.
const PAUSE: Duration = Duration::from_millis(5);

/// Clients that are making calls.
#[derive(Debug)]
pub(super) struct Load {
    clients: JoinSet<()>,
    shared: Arc<Shared>,
}

/// The state that all clients share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    book: Mutex<Book>,
    stopped: AtomicBool,
}

/// A client.
#[derive(Debug)]
struct Client {
    /// Makes the ids of the client's transactions unique.
    name: String,
    sent: usize,
    channel: Channel,
    /// Deadline of calls of single transactions and of batches.
    deadline: Option<Duration>,
    random: Random,
    shared: Arc<Shared>,
}

/// A call that failed because its connection broke. The client ends.
struct Disconnected;

// ===== impl Load =====

impl Load {
    /// Starts the clients. `name` makes the ids of the transactions unique. With `deadline`, each call of single transactions
    /// and of batches has this deadline.
    pub(super) async fn start(
        shared: &Arc<Shared>,
        endpoint: &str,
        name: &str,
        deadline: Option<Duration>,
        random: &mut Random,
    ) -> Self {
        shared.stopped.store(false, Ordering::Release);
        let mut clients = JoinSet::new();
        for number in 0..SINGLE + BATCH + STREAM + READ {
            let client = Client {
                name: format!("{name}:{number}"),
                sent: 0,
                channel: Channel::from_shared(endpoint.to_owned())
                    .unwrap()
                    .connect()
                    .await
                    .unwrap(),
                deadline,
                random: Random(random.below(u64::MAX)),
                shared: Arc::clone(shared),
            };
            clients.spawn(async move {
                let _disconnected = if number < SINGLE {
                    client.send_single().await
                } else if number < SINGLE + BATCH {
                    client.send_batches().await
                } else if number < SINGLE + BATCH + STREAM {
                    client.send_streams().await
                } else {
                    client.read().await
                };
            });
        }
        let shared = Arc::clone(shared);
        Load { clients, shared }
    }

    /// Returns whether a client still makes calls.
    pub(super) fn is_running(&mut self) -> bool {
        while let Some(ended) = self.clients.try_join_next() {
            ended.unwrap();
        }
        !self.clients.is_empty()
    }

    /// Waits until every client has ended, because the load was stopped or the server was killed.
    pub(super) async fn join(mut self) {
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
    }

    /// Lets the calls in flight end, and begins no more calls.
    pub(super) async fn stop(self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.join().await;
    }
}

// ===== impl Shared =====

impl Shared {
    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock()
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

// ===== impl Client =====

impl Client {
    fn is_stopped(&self) -> bool {
        self.shared.is_stopped()
    }

    /// Returns the next transactions: some that were not answered before, and new ones.
    fn next(&mut self, count: usize) -> Vec<ProcessTransactionRequest> {
        let mut book = self.shared.book();
        let mut requests = if self.random.below(4) == 0 {
            book.take_repeats(count)
        } else {
            Vec::new()
        };
        while requests.len() < count {
            self.sent += 1;
            let id = format!("{}:{}", self.name, self.sent);
            requests.push(book.new_transaction(&id, &mut self.random));
        }
        requests
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(deadline) = self.deadline {
            request.set_timeout(deadline);
        }
        request
    }

    async fn send_single(mut self) -> Result<(), Disconnected> {
        let mut client = TransactionServiceClient::new(self.channel.clone());
        while !self.is_stopped() {
            let transaction = self.next(1).remove(0);
            let id = transaction.transaction_id.clone();
            match client.process_transaction(self.request(transaction)).await {
                Ok(answer) => {
                    let answer = answer.into_inner();
                    let place = Place::new(answer.sequence, answer.commit_time);
                    self.shared.book().acknowledge(&id, place);
                }
                Err(status) => {
                    self.shared.book().fail(&id, &status);
                    self.after_error(&status).await?;
                }
            }
        }
        Ok(())
    }

    async fn send_batches(mut self) -> Result<(), Disconnected> {
        let mut client = TransactionServiceClient::new(self.channel.clone());
        while !self.is_stopped() {
            let count = self.random.between(1, BATCH_TRANSACTIONS_MAX);
            let transactions = self.next(count);
            let ids: Vec<_> = transactions
                .iter()
                .map(|transaction| transaction.transaction_id.clone())
                .collect();
            let request = self.request(ProcessTransactionsRequest { transactions });
            match client.process_transactions(request).await {
                Ok(answer) => {
                    for (id, result) in ids.iter().zip(answer.into_inner().results) {
                        self.take(id, result);
                    }
                }
                Err(status) => {
                    self.fail_all(&ids, &status);
                    self.after_error(&status).await?;
                }
            }
        }
        Ok(())
    }

    async fn send_streams(mut self) -> Result<(), Disconnected> {
        let mut client = TransactionServiceClient::new(self.channel.clone());
        while !self.is_stopped() {
            let (sender, receiver) = mpsc::channel(WINDOW);
            let mut in_flight = Vec::new();
            self.fill(&sender, &mut in_flight);
            let failed = match client.stream_transactions(ReceiverStream::new(receiver)).await {
                Ok(answers) => self.follow(sender, answers.into_inner(), &mut in_flight).await,
                Err(status) => Err(status),
            };
            if let Err(status) = failed {
                self.fail_all(&in_flight, &status);
                self.after_error(&status).await?;
            }
        }
        Ok(())
    }

    /// Sends transactions until as many as possible are in flight.
    fn fill(&mut self, sender: &mpsc::Sender<StreamTransactionsRequest>, in_flight: &mut Vec<String>) {
        while in_flight.len() < WINDOW
            && let Ok(permit) = sender.try_reserve()
        {
            let transaction = self.next(1).remove(0);
            in_flight.push(transaction.transaction_id.clone());
            permit.send(StreamTransactionsRequest {
                transaction: Some(transaction),
            });
        }
    }

    /// Reads the results of a stream, and sends more transactions, until the stream ends. `in_flight` keeps the transactions
    /// without a result.
    async fn follow(
        &mut self,
        sender: mpsc::Sender<StreamTransactionsRequest>,
        mut answers: Streaming<StreamTransactionsResponse>,
        in_flight: &mut Vec<String>,
    ) -> Result<(), Status> {
        let mut sender = Some(sender);
        let mut answered = 0;
        while let Some(answer) = answers.next().await {
            let answer = answer?;
            let id = in_flight.remove(0);
            let committed = self.take(&id, answer.result.unwrap());
            answered += 1;
            if !committed || answered >= STREAM_TRANSACTIONS || self.is_stopped() {
                sender = None;
            }
            if let Some(sender) = &sender {
                self.fill(sender, in_flight);
            }
        }
        assert_eq!(*in_flight, [""; 0], "the stream ended without these results");
        Ok(())
    }

    async fn read(mut self) -> Result<(), Disconnected> {
        let mut transactions = TransactionServiceClient::new(self.channel.clone());
        let mut accounts = AccountServiceClient::new(self.channel.clone());
        while !self.is_stopped() {
            let account_id = account_id(self.random.below(super::book::ACCOUNTS));
            if let Err(status) = accounts
                .get_account(GetAccountRequest {
                    account_id,
                    ..GetAccountRequest::default()
                })
                .await
            {
                self.after_error(&status).await?;
            }
            let Some(entry) = self.shared.book().any_acknowledged(&mut self.random) else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let transaction_id = entry.id.clone();
            match transactions
                .get_transaction(GetTransactionRequest {
                    transaction_id,
                    ..GetTransactionRequest::default()
                })
                .await
            {
                Ok(answer) => {
                    let found = answer.into_inner().transaction.unwrap();
                    assert_eq!(place_of(&found).map(Known::Committed), Some(entry.known));
                }
                Err(status) => self.after_error(&status).await?,
            }
        }
        Ok(())
    }

    /// Notes the result of one of many transactions. Returns whether it was committed.
    fn take(&self, id: &str, result: TransactionResult) -> bool {
        assert_eq!(result.transaction_id, id);
        match result.outcome.unwrap() {
            Outcome::Committed(answer) => {
                let place = Place::new(answer.sequence, answer.commit_time);
                self.shared.book().acknowledge(id, place);
                true
            }
            Outcome::Error(status) => {
                self.shared.book().fail(id, &status_of(&status));
                false
            }
        }
    }

    fn fail_all(&self, ids: &[String], status: &Status) {
        let mut book = self.shared.book();
        ids.iter().for_each(|id| book.fail(id, status));
    }

    /// Pauses after an error of the service, or an expired deadline.
    async fn after_error(&self, status: &Status) -> Result<(), Disconnected> {
        let is_from_service = status.get_details_error_info().is_some();
        if is_from_service || matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) {
            tokio::time::sleep(PAUSE).await;
            Ok(())
        } else {
            Err(Disconnected)
        }
    }
}

/// Returns the place of a transaction that was read.
pub(super) fn place_of(found: &tally::proto::Transaction) -> Option<Place> {
    match &found.outcome {
        Some(transaction::Outcome::Committed(answer)) => {
            Some(Place::new(answer.sequence, answer.commit_time))
        }
        _ => None,
    }
}
