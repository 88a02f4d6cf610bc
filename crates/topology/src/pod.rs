//! [`PodHints`]: the description of the Kubernetes pod, which shows whether CPUs can be exclusive.
//!
//! The kernel does not report whether the CPUs of a container are exclusive. The kubelet's static CPU manager assigns
//! exclusive CPUs only to containers that request a whole number of CPUs, in pods of the QoS class `Guaranteed`. So the
//! description of the pod can show that the CPUs are not exclusive. The description comes from environment variables,
//! which the pod's manifest sets (docs/pinning.md), and from the path of the control group if this path is visible.

use std::env;

/// Environment variable with the CPU limit of the container in thousandths of a CPU, for the downward API
/// (`resourceFieldRef`, divisor `1m`).
pub const ENV_CPU_LIMIT: &str = "TALLY_POD_CPU_LIMIT_MILLI";
/// Environment variable with the CPU request of the container in thousandths of a CPU, for the downward API.
pub const ENV_CPU_REQUEST: &str = "TALLY_POD_CPU_REQUEST_MILLI";
/// Environment variable with the QoS class of the pod: `Guaranteed`, `Burstable` or `BestEffort`. The author of the
/// manifest has to set this variable, because the downward API does not provide the class.
pub const ENV_QOS_CLASS: &str = "TALLY_POD_QOS_CLASS";
/// Environment variable that the kubelet sets in every container.
const ENV_KUBERNETES: &str = "KUBERNETES_SERVICE_HOST";

/// Thousandths of a CPU in one CPU.
const MILLI: u64 = 1000;

/// The description of the pod. A field is `None` if it is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodHints {
    /// Whether the process runs in a pod.
    pub kubernetes: bool,
    /// QoS class, from [`ENV_QOS_CLASS`] or from the path of the control group.
    pub qos_class: Option<String>,
    /// CPU request in thousandths of a CPU, from [`ENV_CPU_REQUEST`].
    pub cpu_request_milli: Option<u64>,
    /// CPU limit in thousandths of a CPU, from [`ENV_CPU_LIMIT`]. For a container without a limit, the downward API
    /// reports the capacity of the node.
    pub cpu_limit_milli: Option<u64>,
}

// ===== impl PodHints =====

impl PodHints {
    /// Reads the environment of the process. A value that is empty or not a number is unknown.
    #[must_use]
    pub fn from_environment() -> Self {
        let number = |name| env::var(name).ok().and_then(|text| text.trim().parse().ok());
        Self {
            kubernetes: env::var_os(ENV_KUBERNETES).is_some(),
            qos_class: env::var(ENV_QOS_CLASS).ok().filter(|class| !class.is_empty()),
            cpu_request_milli: number(ENV_CPU_REQUEST),
            cpu_limit_milli: number(ENV_CPU_LIMIT),
        }
    }

    /// Returns the reason why the pod's CPUs can't be exclusive; `None` if the description gives no such reason.
    #[must_use]
    pub fn shares_because(&self) -> Option<String> {
        if let Some(class) = &self.qos_class
            && !class.eq_ignore_ascii_case("guaranteed")
        {
            return Some(format!("the pod is {class}, not Guaranteed: its CPUs are shared"));
        }
        let request = self.cpu_request_milli?;
        if let Some(limit) = self.cpu_limit_milli
            && limit != request
        {
            return Some(format!(
                "the container requests {request} and is limited to {limit} thousandths of a CPU, which must be the \
                 same for a Guaranteed pod: its CPUs are shared"
            ));
        }
        (request.checked_rem(MILLI) != Some(0)).then(|| {
            format!(
                "the container requests {request} thousandths of a CPU, not a whole number of CPUs: its CPUs are shared"
            )
        })
    }

    /// Derives the QoS class from the path of the control group, if the class is unknown. The kubelet puts all pods
    /// below `kubepods`. The kubelet puts `Burstable` and `BestEffort` pods below a group with the name of their class.
    /// The full path is visible only in a container that shares the host's cgroup namespace.
    pub(super) fn learn_from_path(&mut self, path: Option<&str>) {
        let Some(path) = path.filter(|path| path.contains("kubepods")) else {
            return;
        };
        self.kubernetes = true;
        if self.qos_class.is_none() {
            let class = if path.contains("besteffort") {
                "BestEffort"
            } else if path.contains("burstable") {
                "Burstable"
            } else {
                "Guaranteed"
            };
            self.qos_class = Some(class.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(class: Option<&str>, request: Option<u64>, limit: Option<u64>) -> Option<String> {
        let pod = PodHints {
            kubernetes: true,
            qos_class: class.map(str::to_owned),
            cpu_request_milli: request,
            cpu_limit_milli: limit,
        };
        pod.shares_because()
    }

    #[test]
    fn a_guaranteed_pod_with_whole_and_equal_requests_may_have_exclusive_cpus() {
        assert_eq!(reason(Some("Guaranteed"), Some(4000), Some(4000)), None);
        assert_eq!(reason(Some("guaranteed"), None, None), None);
        assert_eq!(reason(None, None, Some(4000)), None, "the request is unknown");
    }

    #[test]
    fn every_reason_for_shared_cpus_is_named() {
        let because = |class, request, limit| reason(class, request, limit).unwrap();
        assert!(because(Some("BestEffort"), None, None).starts_with("the pod is BestEffort"));
        assert!(because(None, Some(2000), Some(4000)).contains("requests 2000 and is limited to 4000"));
        assert!(because(Some("Guaranteed"), Some(1500), Some(1500)).contains("not a whole number"));
    }
}
