"""The metrics that dashboards and alerts may use, with the labels that the service sets."""

METRICS = {
    "tally_affinity_lost_total": set(),
    "tally_affinity_ok": {"role"},
    "tally_batch_flush_total": {"reason"},
    "tally_batch_items_bucket": {"le"},
    "tally_batch_items_count": set(),
    "tally_batch_items_sum": set(),
    "tally_breaker_calls_total": {"key", "outcome"},
    "tally_breaker_overdue": {"key"},
    "tally_breaker_self_throttled_seconds_total": {"key"},
    "tally_breaker_slow_calls_total": {"key"},
    "tally_breaker_state": {"key", "state"},
    "tally_breaker_transitions_total": {"key", "from", "to", "reason"},
    "tally_build_info": {"version", "commit"},
    "tally_certificate_not_after_timestamp_seconds": set(),
    "tally_clock_held_seconds": set(),
    "tally_commit_seconds_bucket": {"le"},
    "tally_connections": {"port"},
    "tally_connections_max": {"port"},
    "tally_cpu_throttled_seconds_total": set(),
    "tally_disk_free_bytes": set(),
    "tally_disk_full": set(),
    "tally_disk_total_bytes": set(),
    "tally_fsync_seconds_bucket": {"le"},
    "tally_journal_damage_total": {"found_by"},
    "tally_panics_total": set(),
    "tally_queue_capacity": set(),
    "tally_queue_depth": set(),
    "tally_queue_full_total": set(),
    "tally_queue_wait_seconds_bucket": {"le"},
    "tally_scrub_bytes_total": set(),
    "tally_scrub_last_pass_timestamp_seconds": set(),
    "tally_security_stale": {"what"},
    "tally_spans_total": {"outcome"},
    "tally_store_failed": set(),
    "tally_transactions_total": {"outcome"},
}
# Labels that the scraper adds to every series.
SCRAPED = {"namespace", "pod"}
# Metrics of kube-state-metrics.
FOREIGN = {
    "kube_job_failed": {"condition", "job_name"},
    "kube_pod_container_status_last_terminated_exitcode": {"container"},
    "kube_pod_container_status_restarts_total": {"container"},
}
