//! Pages through the statement of an account while a load runs, as reports and reconciliations do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::sleep};
use tonic::{Code, Status};

use super::{
    error::BenchError,
    generator::AccountNumber,
    target::{Target, call_failed, connect, in_time},
};
use crate::{
    client::Connection,
    proto::{ListAccountEntriesRequest, account_service_client::AccountServiceClient},
};

/// Number of rows of a page: the maximum.
const PAGE_ROWS: i32 = 1000;
/// Delay after a page that the service refused because of overload.
const OVERLOAD_WAIT: Duration = Duration::from_millis(10);

/// Readers of a statement. Dropping this value stops them.
#[derive(Debug)]
pub(super) struct Listings {
    readers: JoinSet<Result<(), BenchError>>,
    pages: Arc<AtomicU64>,
}

// ===== impl Listings =====

impl Listings {
    /// Begins to read the statement of the account that the load uses most, on this many connections.
    pub(super) async fn start(service: &Target, count: u32) -> Result<Self, BenchError> {
        let mut listings = Listings {
            readers: JoinSet::new(),
            pages: Arc::default(),
        };
        for _ in 0..count {
            let connection = connect(service.client()).await?;
            let pages = Arc::clone(&listings.pages);
            listings.readers.spawn(read(connection, pages));
        }
        Ok(listings)
    }

    /// Stops the readers. Returns the number of pages that they have read.
    pub(super) fn stop(mut self) -> Result<u64, BenchError> {
        while let Some(ended) = self.readers.try_join_next() {
            // A reader ends only with an error.
            ended.map_err(|_panic| BenchError::Panicked)??;
        }
        Ok(self.pages.load(Ordering::Relaxed))
    }
}

/// Reads the whole statement, the oldest rows first, again and again.
async fn read(connection: Connection, pages: Arc<AtomicU64>) -> Result<(), BenchError> {
    let mut client = AccountServiceClient::new(connection);
    let mut request = ListAccountEntriesRequest {
        account_id: AccountNumber::MOST_USED.id(),
        page_size: PAGE_ROWS,
        ..ListAccountEntriesRequest::default()
    };
    loop {
        match client.list_account_entries(in_time(request.clone())).await {
            Ok(page) => {
                pages.fetch_add(1, Ordering::Relaxed);
                request.page_token = page.into_inner().next_page_token;
            }
            Err(status) if is_overload(&status) => sleep(OVERLOAD_WAIT).await,
            Err(status) => return Err(call_failed("ListAccountEntries", status)),
        }
    }
}

fn is_overload(status: &Status) -> bool {
    status.code() == Code::ResourceExhausted
}
