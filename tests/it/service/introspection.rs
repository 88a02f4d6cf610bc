//! Tests of the reports of the engine: figures of the circuits, the batches and the topology.

use std::{path::Path, time::Duration};

use tally::{
    engine::{CallKind, EngineConfig},
    proto::{CircuitStats, GetBatchStatsRequest, GetCircuitStatsRequest, GetTopologyRequest},
};
use tally_batch::BatchConfig;

use crate::support::in_process::{Service, patient_config, pay};

/// Returns the report on the circuit of `ProcessTransaction`.
async fn report(service: &Service) -> CircuitStats {
    let key = service.engine.breaker(CallKind::Unary).key().to_owned();
    let mut stats = service.stats().await;
    let response = stats.get_circuit_stats(GetCircuitStatsRequest {}).await.unwrap();
    let circuits = response.into_inner().circuits.into_iter();
    circuits.into_iter().find(|circuit| circuit.key == key).unwrap()
}

#[tokio::test]
async fn circuits_report_the_mean_latency_the_failures_in_a_row_and_the_counts_since_the_start() {
    let service = Service::start(&patient_config()).await;
    service.open_accounts(&["a", "b"]).await;
    let mut client = service.transactions().await;
    for id in ["t1", "t2", "t3"] {
        client.process_transaction(pay(id)).await.unwrap();
    }
    let circuit = report(&service).await;
    let totals = circuit.totals.unwrap();
    assert_eq!((totals.successes, totals.failures, totals.slow_calls), (3, 0, 0));
    assert_eq!(circuit.consecutive_failures, 0);
    let latency = circuit.window.unwrap().total.unwrap();
    let [mean, max] = [latency.mean, latency.max].map(|time| Duration::try_from(time.unwrap()).unwrap());
    assert_eq!(latency.count, 3);
    assert!(
        Duration::ZERO < mean && mean <= max,
        "{mean:?} of at most {max:?}"
    );

    service
        .disk
        .fail_syncs_of(Path::new("/data/journal/0000000000.segment"));
    client.process_transaction(pay("t4")).await.unwrap_err();
    let circuit = report(&service).await;
    let totals = circuit.totals.unwrap();
    assert_eq!((totals.successes, totals.failures), (3, 1));
    assert_eq!(circuit.consecutive_failures, 1);
}

#[tokio::test]
async fn batch_stats_report_the_settings_and_the_batches_over_the_latency_budget() {
    let config = EngineConfig {
        batch: BatchConfig {
            queue_requests_max: 64,
            queue_bytes_max: 3 << 20,
            max_linger: Duration::from_micros(70),
            siblings: 5,
            client_share_percent: 30,
            // Every batch takes longer than this budget.
            latency_budget: Some(Duration::from_micros(1)),
        },
        ..patient_config()
    };
    let service = Service::start(&config).await;
    service.open_accounts(&["a", "b"]).await;
    let mut stats = service.stats().await;
    // The batch may be counted shortly after its answers are sent, so the test waits.
    let reported = loop {
        let answer = stats.get_batch_stats(GetBatchStatsRequest {}).await.unwrap();
        if answer.get_ref().over_budget > 0 {
            break answer.into_inner();
        }
    };
    let settings = reported.settings.unwrap();
    assert_eq!(
        (settings.queue_requests_max, settings.queue_bytes_max),
        (64, 3 << 20)
    );
    assert_eq!(settings.max_linger.unwrap().nanos, 70_000);
    assert_eq!((settings.siblings, settings.client_share_percent), (5, 30));
    assert_eq!(settings.latency_budget.unwrap().nanos, 1000);
}

#[tokio::test]
async fn the_topology_reports_how_many_threads_do_not_fit_its_list() {
    let service = Service::start(&patient_config()).await;
    let mut stats = service.stats().await;
    let topology = stats
        .get_topology(GetTopologyRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(!topology.threads.is_empty());
    assert_eq!(topology.register_overflow, 0);
}
