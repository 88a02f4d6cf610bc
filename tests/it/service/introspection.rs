//! Reports of the engine: figures of the circuits, the batches and the topology.

use std::{path::Path, time::Duration};

use tally::{
    engine::CallKind,
    proto::{CircuitStats, GetCircuitStatsRequest, GetTopologyRequest},
};

use crate::support::in_process::{Service, patient_config, pay};

/// The report on the circuit of `ProcessTransaction`.
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
async fn the_topology_reports_threads_that_its_list_has_no_room_for() {
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
