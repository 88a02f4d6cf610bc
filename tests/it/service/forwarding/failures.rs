//! Tests of calls without a leader, with a leader that fails, and of calls that would be forwarded twice. `NOT_LEADER` means that the call
//! was not executed, and `LEADER_LOST` that this is unknown.

use tally::{
    proto::transaction_service_client::TransactionServiceClient,
    store::replicated::{ReplicaCommand, ReplicaRole},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;

use super::{super::deadlines::with_deadline, *};
use crate::support::in_process::patient_config;

/// Waits for the next command of a replica.
async fn command(driver: &mut ReplicaDriver) -> ReplicaCommand {
    let command = tokio::time::timeout(WAIT_MAX, driver.commands.recv()).await;
    command
        .expect("a command arrives in time")
        .expect("the replica lives")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_leader_nothing_is_executed_and_the_client_learns_when_to_retry() {
    for role in [
        ReplicaRole::Starting,
        ReplicaRole::Standby,
        ReplicaRole::Candidate,
        ReplicaRole::Stopped,
    ] {
        // A replica whose own claim is the newest, but which does not lead, must not forward calls to itself.
        for leader in [None, Some(OWN)] {
            let (service, _driver) =
                Service::start_replica(view(role, leader), Arc::new(Security::default())).await;
            let error = service
                .transactions()
                .await
                .process_transaction(pay("t"))
                .await
                .unwrap_err();
            assert_eq!(
                summary(&error),
                expected(Code::Unavailable, "NOT_LEADER", "false"),
                "{role:?}"
            );
            assert_eq!(error.metadata().get("grpc-retry-pushback-ms").unwrap(), "100");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_can_not_be_reached_is_reported_and_so_is_its_return() {
    // The port is free again when the listener is dropped.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (standby, mut driver) = standby_of(&closed).await;
    let mut client = standby.transactions().await;
    let error = client.process_transaction(pay("t")).await.unwrap_err();
    assert_eq!(
        summary(&error),
        expected(Code::Unavailable, "NOT_LEADER", "false")
    );
    let failed = command(&mut driver).await;
    assert!(
        matches!(&failed, ReplicaCommand::ForwardFailed { leader } if *leader == closed),
        "{failed:?}"
    );
    let leader = FakeLeader::start(Conduct::Answer).await;
    let endpoint = leader.endpoint().to_owned();
    driver
        .view
        .send_modify(|view| view.leader = Some(endpoint.clone()));
    assert_eq!(
        client.process_transaction(pay("t")).await.unwrap_err().code(),
        Code::NotFound
    );
    let succeeded = command(&mut driver).await;
    assert!(
        matches!(&succeeded, ReplicaCommand::ForwardSucceeded { leader } if *leader == endpoint),
        "{succeeded:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_outcome_of_a_call_whose_leader_is_lost_is_unknown() {
    // Whether the leader may be out of reach, so that the standby must claim leadership if this lasts.
    for (conduct, is_failure) in [
        (Conduct::Close, true),
        // The leader resets the answer before it closes the connection, which is reported separately.
        (Conduct::CloseWithinAnswer, false),
        (Conduct::EndWithoutStatus, false),
        (Conduct::AnswerHttp(502), true),
        (Conduct::AnswerHttp(431), false),
    ] {
        let leader = FakeLeader::start(conduct).await;
        let (standby, mut driver) = standby_of(leader.endpoint()).await;
        let mut client = standby.transactions().await;
        let error = client.process_transaction(pay("t")).await.unwrap_err();
        assert_eq!(
            summary(&error),
            expected(Code::Unavailable, "LEADER_LOST", "unknown"),
            "{conduct:?}"
        );
        if is_failure {
            // The reports of the failed call and of the closed connection come in any order.
            let failed = loop {
                let reported = command(&mut driver).await;
                if !matches!(reported, ReplicaCommand::LeaderClosed { .. }) {
                    break reported;
                }
            };
            assert!(
                matches!(failed, ReplicaCommand::ForwardFailed { .. }),
                "{conduct:?}: {failed:?}"
            );
        }
        // The next call opens a new connection if the old one is closed.
        leader.set_conduct(Conduct::Answer);
        assert_eq!(
            client.process_transaction(pay("t")).await.unwrap_err().code(),
            Code::NotFound
        );
        if !is_failure {
            while let Ok(reported) = driver.commands.try_recv() {
                let is_closed = matches!(reported, ReplicaCommand::LeaderClosed { .. });
                assert!(is_closed, "{conduct:?}: {reported:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_connection_is_reported_and_opened_again() {
    let leader = FakeLeader::start(Conduct::Answer).await;
    let (standby, mut driver) = standby_of(leader.endpoint()).await;
    let mut client = standby.transactions().await;
    for _ in 0..3 {
        assert_eq!(
            client.process_transaction(pay("t")).await.unwrap_err().code(),
            Code::NotFound
        );
    }
    assert_eq!(leader.connections(), 1);
    leader.close();
    let closed = command(&mut driver).await;
    assert!(
        matches!(&closed, ReplicaCommand::LeaderClosed { leader: of } if of == leader.endpoint()),
        "{closed:?}"
    );
    assert_eq!(
        client.process_transaction(pay("t")).await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(leader.connections(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_leader_is_lost_ends_with_an_error_after_which_the_client_can_go_on() {
    let leader = FakeLeader::start(Conduct::HangWithinAnswer).await;
    let (standby, _driver) = standby_of(leader.endpoint()).await;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let mut client = standby.transactions().await;
    sender.send(message("t")).await.unwrap();
    let mut answers = client
        .stream_transactions(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    assert!(answers.message().await.unwrap().is_some());
    leader.close();
    let status = answers.message().await.unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::Unavailable, "LEADER_LOST", "unknown")
    );
    assert_eq!(super::super::info(&status).metadata["retry"], "same_id");
}

/// The call waits for the next message of the client on the task of the connection to the leader, and not on the task that answers the client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forwarded_stream_ends_at_the_leader_when_its_client_goes_away() {
    let leader = FakeLeader::start(Conduct::HangWithinAnswer).await;
    let (standby, driver) = standby_of(leader.endpoint()).await;
    let endpoint = standby.endpoint();
    let client = tokio::task::spawn_blocking(move || {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut client = TransactionServiceClient::connect(endpoint).await.unwrap();
            sender.send(message("t")).await.unwrap();
            let answers = client.stream_transactions(ReceiverStream::new(receiver)).await;
            let answer = answers.unwrap().into_inner().message().await;
            assert!(answer.unwrap().is_some());
        });
        // Everything of the client goes at once, as in a process that is killed.
        drop(runtime);
        drop(sender);
    });
    client.await.unwrap();
    tokio::time::timeout(WAIT_MAX, leader.request_ended())
        .await
        .expect("the call ends at the leader");
    drop(driver);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_hangs_does_not_hold_a_call_beyond_its_deadline() {
    for conduct in [Conduct::Hang, Conduct::HangWithinAnswer] {
        let leader = FakeLeader::start(conduct).await;
        let (standby, _driver) = standby_of(leader.endpoint()).await;
        let mut client = standby.patient_transactions().await;
        let error = client
            .process_transaction(with_deadline("t", Duration::from_millis(100)))
            .await;
        let error = error.unwrap_err();
        assert_eq!(
            summary(&error),
            expected(Code::DeadlineExceeded, "EXPIRED_IN_EXECUTION", "unknown"),
            "{conduct:?}"
        );
    }
}

/// The leader behaves like a stopped process or a machine that is cut off: it answers nothing, but the connection stays open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_machine_does_not_answer_is_lost_even_if_the_call_has_no_deadline() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", listener.local_addr().unwrap());
    let (standby, _driver) = standby_of(&silent).await;
    let mut client = standby.patient_transactions().await;
    let call = tokio::time::timeout(WAIT_MAX, client.process_transaction(pay("t"))).await;
    let error = call.unwrap().unwrap_err();
    assert_eq!(
        summary(&error),
        expected(Code::Unavailable, "LEADER_LOST", "unknown")
    );
    drop(listener);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_calls_at_an_old_leader_end_when_another_replica_leads() {
    let old = FakeLeader::start(Conduct::Hang).await;
    let new = FakeLeader::start(Conduct::Answer).await;
    let (standby, driver) = standby_of(old.endpoint()).await;
    let mut client = standby.transactions().await;
    let call = tokio::spawn(async move { client.process_transaction(pay("t")).await });
    old.called().await;
    driver
        .view
        .send_modify(|view| view.leader = Some(new.endpoint().to_owned()));
    let error = tokio::time::timeout(WAIT_MAX, call)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert_eq!(
        summary(&error),
        expected(Code::Unavailable, "LEADER_LOST", "unknown")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_forwarded_once_only() {
    let (first, first_driver) = standby_of(OWN).await;
    let (second, _second_driver) = standby_of(&first.endpoint()).await;
    first_driver.view.send_modify(|view| {
        view.own_address = first.endpoint();
        view.leader = Some(second.endpoint());
    });
    for service in [&first, &second] {
        let error = service
            .transactions()
            .await
            .process_transaction(pay("t"))
            .await
            .unwrap_err();
        assert_eq!(
            summary(&error),
            expected(Code::Unavailable, "NOT_LEADER", "false")
        );
    }
    // The error of a marked call has the address of the leader, as far as the replica knows it.
    let mut marked = Request::new(pay("t"));
    marked
        .metadata_mut()
        .insert("tally-forwarded", MARK.parse().unwrap());
    let error = second
        .transactions()
        .await
        .process_transaction(marked)
        .await
        .unwrap_err();
    assert_eq!(super::super::info(&error).metadata["leader"], first.endpoint());
}

/// The address of a leader can get another owner. A service of another ledger does not execute what was meant for the leader.
#[tokio::test]
async fn a_forwarded_call_is_executed_only_by_its_own_ledger() {
    let (leader, _driver) = Service::start_replica(
        view(ReplicaRole::Leader, Some(OWN)),
        Arc::new(Security::default()),
    )
    .await;
    let embedded = Service::start(&patient_config()).await;
    for (service, mark, is_executed) in [
        (&leader, MARK, true),
        (&leader, "00000000000000000000000000000000", false),
        (&leader, "1", false),
        (&embedded, MARK, false),
    ] {
        let mut call = Request::new(pay("t"));
        call.metadata_mut()
            .insert("tally-forwarded", mark.parse().unwrap());
        let error = service
            .transactions()
            .await
            .process_transaction(call)
            .await
            .unwrap_err();
        // The accounts do not exist.
        let wanted = if is_executed {
            Code::NotFound
        } else {
            assert_eq!(
                summary(&error),
                expected(Code::Unavailable, "NOT_LEADER", "false")
            );
            Code::Unavailable
        };
        assert_eq!(error.code(), wanted, "{error}");
    }
}
