//! `GetReplicaState` and `ResignLeadership`.

use tally::{
    proto::{self, GetReplicaStateRequest, ResignLeadershipRequest},
    store::replicated::{ReplicaCommand, ResignError, Resigned},
};

use super::*;
use crate::support::in_process::patient_config;

#[tokio::test]
async fn every_replica_shows_its_own_state_and_an_embedded_service_has_none() {
    let pair = Pair::start().await;
    let [_, driver] = &pair.drivers;
    driver.view.send_modify(|view| {
        view.term = 3;
        view.lag_ms = Some(20);
        view.fault = Some("no broker answers".to_owned());
    });
    let state = pair
        .standby
        .stats()
        .await
        .get_replica_state(GetReplicaStateRequest {})
        .await;
    let state = state.unwrap().into_inner().replica.unwrap();
    assert_eq!(state.role(), proto::ReplicaRole::Standby);
    assert_eq!((state.term, &*state.leader), (3, &*pair.leader.endpoint()));
    assert_eq!(
        state.lag,
        Some(prost_types::Duration {
            seconds: 0,
            nanos: 20_000_000
        })
    );
    assert_eq!((state.end_offset, &*state.fault), (None, "no broker answers"));
    let embedded = Service::start(&patient_config()).await;
    let mut engine = embedded.stats().await;
    let state = engine
        .get_replica_state(GetReplicaStateRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(state.replica, None);
    let error = engine
        .resign_leadership(ResignLeadershipRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        summary(&error),
        expected(Code::FailedPrecondition, "NOT_REPLICATED", "false")
    );
}

#[tokio::test]
async fn a_resignation_reaches_the_driver_and_its_answer_the_caller() {
    let (leader, mut driver) = Service::start_replica(
        view(ReplicaRole::Leader, Some(OWN)),
        Arc::new(Security::default()),
    )
    .await;
    let mut engine = leader.stats().await;
    for (answer, wanted) in [
        (Ok(Resigned { term: 5 }), None),
        (
            Err(ResignError::NotLeader),
            Some(expected(Code::Unavailable, "NOT_LEADER", "false")),
        ),
        (
            Err(ResignError::Unresolved),
            Some(expected(Code::Unavailable, "LEADER_LOST", "unknown")),
        ),
        (
            Err(ResignError::UnknownSuccessor {
                address: "http://b:1".to_owned(),
            }),
            Some(expected(Code::InvalidArgument, "INVALID_FIELD", "false")),
        ),
    ] {
        let request = ResignLeadershipRequest {
            successor: "http://b:1".to_owned(),
            comment: "drain".to_owned(),
        };
        let driving = async {
            let ReplicaCommand::Resign {
                successor,
                answer: caller,
            } = driver.commands.recv().await.unwrap()
            else {
                panic!("another command")
            };
            assert_eq!(successor.as_deref(), Some("http://b:1"));
            caller.send(answer).unwrap();
        };
        let (resigned, ()) = tokio::join!(engine.resign_leadership(request), driving);
        match (resigned, wanted) {
            (Ok(resigned), None) => assert_eq!(resigned.into_inner().term, 5),
            (Err(error), Some(wanted)) => assert_eq!(summary(&error), wanted),
            (resigned, wanted) => panic!("{resigned:?} instead of {wanted:?}"),
        }
    }
    let long = ResignLeadershipRequest {
        comment: "x".repeat(257),
        ..ResignLeadershipRequest::default()
    };
    let error = engine.resign_leadership(long).await.unwrap_err();
    assert_eq!(
        summary(&error),
        expected(Code::InvalidArgument, "INVALID_FIELD", "false")
    );
    drop(driver);
    let error = engine
        .resign_leadership(ResignLeadershipRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        summary(&error),
        expected(Code::Unavailable, "SHUTTING_DOWN", "false")
    );
}
