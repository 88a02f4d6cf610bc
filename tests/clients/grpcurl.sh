#!/usr/bin/env bash
# Tests Tally with grpcurl over reflection. TALLY_ENDPOINT is the address of a running server, and GRPCURL the path of grpcurl.
# tests/clients/run sets both variables.
set -euo pipefail

passed=0

# expect NAME PATTERN ARGUMENT...: checks that grpcurl with these arguments prints PATTERN on standard output or standard error.
# Ignores the exit code.
expect() {
    local name=$1 pattern=$2 output
    shift 2
    output=$("$GRPCURL" -plaintext -max-time 20 "$@" 2>&1) || true
    if ! grep -qE -- "$pattern" <<<"$output"; then
        printf 'FAILED %s: no "%s" in\n%s\n' "$name" "$pattern" "$output" >&2
        exit 1
    fi
    passed=$((passed + 1))
}

# call NAME PATTERN METHOD JSON: checks that a call of METHOD with the request JSON prints PATTERN.
call() { expect "$1" "$2" -d "$4" "$TALLY_ENDPOINT" "tally.v1.$3"; }

run="curl-$$-$RANDOM"
issuer="$run:issuer" wallet="$run:wallet"
transfer() { echo "{\"debit_account_id\": \"$1\", \"credit_account_id\": \"$2\", \"minor_units\": $3}"; }
transaction() { echo "{\"transaction_id\": \"$1\", \"transfers\": [$2]}"; }

for service in TransactionService AccountService EngineService; do
    expect "list $service" "^tally\.v1\.$service$" "$TALLY_ENDPOINT" list
done
expect "list methods" '^tally\.v1\.TransactionService\.StreamTransactions$' "$TALLY_ENDPOINT" list tally.v1.TransactionService
expect "describe" 'rpc ProcessTransaction \(' "$TALLY_ENDPOINT" describe tally.v1.TransactionService
expect "describe a message" 'int64 minor_units = 3' "$TALLY_ENDPOINT" describe tally.v1.Transfer
expect "health" '"status": "SERVING"' "$TALLY_ENDPOINT" grpc.health.v1.Health/Check

call "create the issuer" "\"id\": \"$issuer\"" AccountService/CreateAccount \
    "{\"account\": {\"id\": \"$issuer\", \"asset\": \"EUR\"}}"
call "create the wallet" '"balanceRule": "BALANCE_RULE_CREDIT_BALANCE"' AccountService/CreateAccount \
    "{\"account\": {\"id\": \"$wallet\", \"asset\": \"EUR\", \"balance_rule\": \"BALANCE_RULE_CREDIT_BALANCE\"}}"

deposit=$(transaction "$run-1" "$(transfer "$issuer" "$wallet" 100)")
call "committed" '"sequence": "[1-9][0-9]*"' TransactionService/ProcessTransaction "$deposit"
call "replayed" '"replayed": true' TransactionService/ProcessTransaction "$deposit"
call "reused" 'Code: AlreadyExists' TransactionService/ProcessTransaction \
    "$(transaction "$run-1" "$(transfer "$issuer" "$wallet" 101)")"
call "insufficient funds" 'Code: FailedPrecondition' TransactionService/ProcessTransaction \
    "$(transaction "$run-2" "$(transfer "$wallet" "$issuer" 101)")"
call "insufficient funds, the reason" '"reason": "INSUFFICIENT_FUNDS"' TransactionService/ProcessTransaction \
    "$(transaction "$run-2" "$(transfer "$wallet" "$issuer" 101)")"
call "malformed" 'Code: InvalidArgument' TransactionService/ProcessTransaction "$(transaction "a b" "$(transfer "$issuer" "$wallet" 1)")"
call "malformed, the field" '"field": "transfers\[0\]\.minor_units"' TransactionService/ProcessTransaction \
    "$(transaction "$run-3" "$(transfer "$issuer" "$wallet" 0)")"
call "the balance" '"minorUnits": "100"' AccountService/GetAccount "{\"account_id\": \"$wallet\"}"

call "circuit stats" '"state": "CIRCUIT_STATE_CLOSED"' EngineService/GetCircuitStats '{}'
call "topology" '"role": "EXEC"' EngineService/GetTopology '{}'
call "clock" '"ledgerTime": "20' EngineService/GetClock '{}'
call "batch stats" '"lastSequence": "[1-9][0-9]*"' EngineService/GetBatchStats '{}'

echo "grpcurl: $passed passed"
