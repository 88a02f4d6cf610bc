//! Tests of invalid fields of accounts, of updates of accounts, and of velocity limits.

use tally::proto::{
    Account, AccountStatus, Amount, BalanceRule, Balances, CreateAccountRequest, Uint128,
    UpdateAccountRequest, VelocityLimit, amount,
};

use super::{timeout, violation};
use crate::support::in_process::{Service, account, config};

#[tokio::test]
async fn every_invalid_update_of_an_account_is_rejected() {
    let service = Service::start(&config()).await;
    let mut client = service.accounts().await;
    let frozen = || Account {
        id: "a".to_owned(),
        status: AccountStatus::Frozen.into(),
        ..Account::default()
    };
    let metadata = Account {
        metadata: [("k".repeat(65), String::new())].into(),
        ..frozen()
    };
    let cases: Vec<(Option<Account>, &[&str], &str, &str)> = vec![
        (None, &["status"], "account", "must be set"),
        (
            Some(Account {
                id: String::new(),
                ..frozen()
            }),
            &["status"],
            "account.id",
            "must not be empty",
        ),
        (
            Some(frozen()),
            &[],
            "update_mask",
            "at least one of status, overdraft_limit, metadata and velocity_limits",
        ),
        (
            Some(frozen()),
            &["asset"],
            "update_mask",
            "\"asset\" can't be updated",
        ),
        (
            Some(frozen()),
            &["status", "*"],
            "update_mask",
            "\"*\" can't be updated",
        ),
        (
            Some(frozen()),
            &["account.status"],
            "update_mask",
            "can't be updated",
        ),
        (
            Some(Account {
                status: 0,
                ..frozen()
            }),
            &["status"],
            "account.status",
            "must be set",
        ),
        (
            Some(Account {
                status: 5,
                ..frozen()
            }),
            &["status"],
            "account.status",
            "5 is not a status",
        ),
        (
            Some(Account {
                etag: "x".to_owned(),
                ..frozen()
            }),
            &["status"],
            "account.etag",
            "is not the etag",
        ),
        (
            Some(metadata),
            &["metadata"],
            "account.metadata",
            "a key of 65 bytes",
        ),
        (
            Some(Account {
                velocity_limits: vec![VelocityLimit::default(); 5],
                ..frozen()
            }),
            &["velocity_limits"],
            "account.velocity_limits",
            "has 5 limits, at most 4",
        ),
    ];
    for (account, paths, field, words) in cases {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let request = UpdateAccountRequest {
            account,
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        let (named, description) = violation(&client.update_account(request).await.unwrap_err());
        assert_eq!(named, field);
        assert!(
            description.contains(words),
            "{field}: {description:?} does not say {words:?}"
        );
    }
}

#[tokio::test]
async fn every_invalid_velocity_limit_is_rejected() {
    let units = |units| {
        Some(Amount {
            value: Some(amount::Value::MinorUnits(units)),
        })
    };
    let wide_zero = Some(Amount {
        value: Some(amount::Value::WideMinorUnits(Uint128::default())),
    });
    let good = VelocityLimit {
        side: 1,
        window: timeout(1, 0),
        max_count: 1,
        max_amount: units(1),
        single_amount_max: units(1),
    };
    let single = VelocityLimit {
        window: None,
        max_count: 0,
        max_amount: None,
        ..good
    };
    let cases: Vec<(VelocityLimit, &str, &str)> = vec![
        (VelocityLimit { side: 0, ..good }, ".side", "must be set"),
        (VelocityLimit { side: 3, ..good }, ".side", "3 is not a side"),
        (
            VelocityLimit { window: None, ..good },
            ".window",
            "must be set with",
        ),
        (
            VelocityLimit {
                window: timeout(0, 999_999_999),
                ..good
            },
            ".window",
            "must be 1 s to 30 days",
        ),
        (
            VelocityLimit {
                window: timeout(2_592_000, 1),
                ..good
            },
            ".window",
            "must be 1 s to 30 days",
        ),
        (
            VelocityLimit {
                window: timeout(-1, 0),
                ..good
            },
            ".window",
            "is -1 s",
        ),
        (
            VelocityLimit {
                window: timeout(1, 0),
                ..single
            },
            ".window",
            "must be unset without",
        ),
        (
            VelocityLimit {
                max_count: -1,
                ..good
            },
            ".max_count",
            "is -1, must be 0 to",
        ),
        (
            VelocityLimit {
                max_amount: units(0),
                ..good
            },
            ".max_amount.minor_units",
            "is 0, must be 1 to",
        ),
        (
            VelocityLimit {
                max_amount: wide_zero,
                ..good
            },
            ".max_amount.wide_minor_units",
            "is 0, must be 1 to",
        ),
        (
            VelocityLimit {
                max_amount: Some(Amount { value: None }),
                ..good
            },
            ".max_amount",
            "must have a value",
        ),
        (
            VelocityLimit {
                single_amount_max: units(-5),
                ..good
            },
            ".single_amount_max.minor_units",
            "is -5",
        ),
        (
            VelocityLimit {
                single_amount_max: None,
                ..single
            },
            "",
            "must have at least one of",
        ),
    ];
    let service = Service::start(&config()).await;
    let mut client = service.accounts().await;
    for (limit, field, words) in cases {
        let request = CreateAccountRequest {
            account: Some(Account {
                velocity_limits: vec![good, limit],
                ..account("x")
            }),
        };
        let (named, description) = violation(&client.create_account(request).await.unwrap_err());
        assert_eq!(named, format!("account.velocity_limits[1]{field}"));
        assert!(
            description.contains(words),
            "{field}: {description:?} does not say {words:?}"
        );
    }
    let month = VelocityLimit {
        window: timeout(2_592_000, 0),
        ..good
    };
    let sent = Account {
        velocity_limits: vec![good, single, month],
        ..account("x")
    };
    let request = CreateAccountRequest {
        account: Some(sent.clone()),
    };
    let created = client.create_account(request).await.unwrap().into_inner();
    assert_eq!(created.account.unwrap().velocity_limits, sent.velocity_limits);
}

#[tokio::test]
async fn every_invalid_field_of_an_account_is_rejected() {
    let wide = |high, low| {
        Some(Amount {
            value: Some(amount::Value::WideMinorUnits(Uint128 { high, low })),
        })
    };
    let cases: Vec<(Account, &str, &str)> = vec![
        (account(""), "account.id", "empty"),
        (
            Account {
                asset: String::new(),
                ..account("x")
            },
            "account.asset",
            "empty",
        ),
        (
            Account {
                asset: "x".repeat(17),
                ..account("x")
            },
            "account.asset",
            "17 bytes, at most 16",
        ),
        (
            Account {
                balance_rule: 9,
                ..account("x")
            },
            "account.balance_rule",
            "9",
        ),
        (
            Account {
                status: 9,
                ..account("x")
            },
            "account.status",
            "9",
        ),
        (
            Account {
                overdraft_limit: wide(0, 1),
                ..account("x")
            },
            "account.overdraft_limit",
            "UNLIMITED",
        ),
        (
            Account {
                balance_rule: BalanceRule::CreditBalance.into(),
                overdraft_limit: Some(Amount {
                    value: Some(amount::Value::MinorUnits(-1)),
                }),
                ..account("x")
            },
            "account.overdraft_limit.minor_units",
            "is -1",
        ),
        (
            Account {
                balances: Some(Balances::default()),
                ..account("x")
            },
            "account.balances",
            "output only",
        ),
        (
            Account {
                create_time: Some(prost_types::Timestamp::default()),
                ..account("x")
            },
            "account.create_time",
            "output only",
        ),
        (
            Account {
                available: Some(Amount::default()),
                ..account("x")
            },
            "account.available",
            "output only",
        ),
        (
            Account {
                etag: "r0".to_owned(),
                ..account("x")
            },
            "account.etag",
            "output only",
        ),
        (
            Account {
                velocity_limits: vec![VelocityLimit::default(); 5],
                ..account("x")
            },
            "account.velocity_limits",
            "has 5 limits, at most 4",
        ),
        (
            Account {
                metadata: [("k".repeat(65), String::new())].into(),
                ..account("x")
            },
            "account.metadata",
            "a key of 65 bytes",
        ),
    ];
    let service = Service::start(&config()).await;
    let mut client = service.accounts().await;
    for (account, field, words) in cases {
        let request = CreateAccountRequest {
            account: Some(account),
        };
        let (named, description) = violation(&client.create_account(request).await.unwrap_err());
        assert_eq!(named, field);
        assert!(
            description.contains(words),
            "{field}: {description:?} does not say {words:?}"
        );
    }
    let (field, _) = violation(
        &client
            .create_account(CreateAccountRequest { account: None })
            .await
            .unwrap_err(),
    );
    assert_eq!(field, "account");
}
