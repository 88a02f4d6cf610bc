//! The statements of the Berka data set: the bank's own balance after each row.

use std::collections::{BTreeMap, HashMap};

use futures_util::{StreamExt, stream};
use tally::proto::{
    AccountEntry, Balances, ListAccountEntriesRequest, account_service_client::AccountServiceClient,
};
use tonic::transport::{Channel, Endpoint};

use super::{
    READS_IN_FLIGHT,
    berka::{Row, import},
    data, read_csv, units,
};
use crate::support::server::TestServer;

/// A row of a statement: the transaction, and the balance after all of its transfers.
type Line = (String, i128);

fn balance(balances: Option<Balances>) -> i128 {
    let balances = balances.unwrap();
    units(balances.credits_posted) - units(balances.debits_posted)
}

/// Reads a whole statement, in the order of the request.
async fn statement(
    mut client: AccountServiceClient<Channel>,
    mut request: ListAccountEntriesRequest,
) -> Vec<AccountEntry> {
    let mut all = Vec::new();
    loop {
        let page = client
            .list_account_entries(request.clone())
            .await
            .unwrap()
            .into_inner();
        all.extend(page.entries);
        if page.next_page_token.is_empty() {
            return all;
        }
        request.page_token = page.next_page_token;
    }
}

/// One line for each transaction: the balance after its last transfer.
fn lines(entries: &[AccountEntry]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for entry in entries {
        let line = (entry.transaction_id.clone(), balance(entry.balances));
        match lines.last_mut() {
            Some(last) if last.0 == line.0 => *last = line,
            Some(_) | None => lines.push(line),
        }
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn the_statement_of_every_account_has_the_balances_of_the_bank() {
    let Some(file) = data("berka/transactions.csv") else {
        return;
    };
    let mut expected = BTreeMap::<String, Vec<Line>>::new();
    for row in read_csv::<Row>(&file) {
        let lines = expected.entry(row.account_id.clone()).or_default();
        lines.push((row.transaction_id.clone(), row.balance_after));
    }
    let server = TestServer::start();
    import(&server, &file);
    let channel = Endpoint::from_shared(server.endpoint())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let client = AccountServiceClient::new(channel);
    for (page_size, newest_first) in [
        (1000, false),
        (1000, true),
        (7, false),
        (7, true),
        (1, false),
        (1, true),
    ] {
        let read = |id: &String| {
            let request = ListAccountEntriesRequest {
                account_id: id.clone(),
                page_size,
                newest_first,
                ..ListAccountEntriesRequest::default()
            };
            let (client, id) = (client.clone(), id.clone());
            async move {
                let mut entries = statement(client, request).await;
                if newest_first {
                    entries.reverse();
                }
                (id, lines(&entries))
            }
        };
        let found: HashMap<String, Vec<Line>> = stream::iter(expected.keys().map(read))
            .buffer_unordered(READS_IN_FLIGHT / 4)
            .collect()
            .await;
        for (id, lines) in &expected {
            assert_eq!(
                &found[id], lines,
                "{id}, pages of {page_size}, newest first: {newest_first}"
            );
        }
    }
}
