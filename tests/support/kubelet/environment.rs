//! A container's environment and arguments as the kubelet makes them: values from the pod, from ConfigMaps and Secrets,
//! and `$(NAME)` replaced. Pure, but for what `sources` was read from.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

/// What of the API a pod's environment refers to: `(kind, name)` to its keys. Kinds: `ConfigMap`, `Secret`.
pub(super) type Sources = BTreeMap<(&'static str, String), BTreeMap<String, String>>;

/// Variables in the order in which they were declared; a later one may use an earlier one.
pub(super) fn variables(
    pod: &Pod,
    container: &Container,
    address: &str,
    sources: &Sources,
) -> Result<Vec<(String, String)>, String> {
    let mut variables: Vec<(String, String)> = Vec::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let reference = match (&from.config_map_ref, &from.secret_ref) {
            (Some(map), _) => ("ConfigMap", map.name.clone(), map.optional),
            (_, Some(secret)) => ("Secret", secret.name.clone(), secret.optional),
            _ => return Err("envFrom names neither a ConfigMap nor a Secret".to_owned()),
        };
        let (kind, name, optional) = reference;
        match sources.get(&(kind, name.clone())) {
            Some(keys) => {
                variables.extend(keys.iter().map(|(key, value)| (format!("{prefix}{key}"), value.clone())))
            }
            None if optional == Some(true) => {}
            None => return Err(format!("{kind} \"{name}\" not found")),
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => Some(expand(value, &variables)),
            (None, None) => Some(String::new()),
            (None, Some(from)) => {
                let key = |kind, name: &String, key: &String, optional: Option<bool>| {
                    let found = sources.get(&(kind, name.clone())).and_then(|keys| keys.get(key));
                    match found {
                        Some(value) => Ok(Some(value.clone())),
                        None if optional == Some(true) => Ok(None),
                        None => Err(format!("{kind} \"{name}\" has no key \"{key}\", or is not there")),
                    }
                };
                if let Some(field) = &from.field_ref {
                    Some(field_of(pod, address, &field.field_path)?)
                } else if let Some(map) = &from.config_map_key_ref {
                    key("ConfigMap", &map.name, &map.key, map.optional)?
                } else if let Some(secret) = &from.secret_key_ref {
                    key("Secret", &secret.name, &secret.key, secret.optional)?
                } else {
                    return Err(format!("variable {}: a source that is not known here", variable.name));
                }
            }
        };
        if let Some(value) = value {
            variables.retain(|(name, _)| *name != variable.name);
            variables.push((variable.name.clone(), value));
        }
    }
    Ok(variables)
}

/// `$(NAME)` becomes the variable's value, `$$(NAME)` becomes `$(NAME)`, and an unknown name stays as it is.
pub(super) fn expand(text: &str, variables: &[(String, String)]) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('$') {
        result.push_str(&rest[..start]);
        let after = &rest[start + 1..];
        if let Some(after) = after.strip_prefix('$') {
            result.push('$');
            rest = after;
            continue;
        }
        let name = after.strip_prefix('(').and_then(|inside| Some(&inside[..inside.find(')')?]));
        let value =
            name.and_then(|name| variables.iter().find(|(known, _)| known == name)).map(|(_, value)| value);
        match (name, value) {
            (Some(name), Some(value)) => {
                result.push_str(value);
                rest = &after[name.len() + 2..];
            }
            _ => {
                result.push('$');
                rest = after;
            }
        }
    }
    result.push_str(rest);
    result
}

/// The downward API.
pub(super) fn field_of(pod: &Pod, address: &str, path: &str) -> Result<String, String> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    let bracketed =
        |field: &str| path.strip_prefix(field)?.strip_prefix("['")?.strip_suffix("']").map(str::to_owned);
    let of = |map: &Option<BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
    };
    if let Some(key) = bracketed("metadata.labels") {
        return Ok(of(&metadata.labels, &key));
    }
    if let Some(key) = bracketed("metadata.annotations") {
        return Ok(of(&metadata.annotations, &key));
    }
    let value = match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "status.podIP" | "status.podIPs" => Some(address.to_owned()),
        "status.hostIP" => pod.status.as_ref().and_then(|status| status.host_ip.clone()),
        _ => return Err(format!("fieldPath {path} is not known here")),
    };
    Ok(value.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn variables_are_replaced_as_kubernetes_says() {
        let known = [("A".to_owned(), "1".to_owned()), ("POD_INDEX".to_owned(), "2".to_owned())];
        let check = |text: &str, expected: &str| assert_eq!(expand(text, &known), expected);
        check("--server-id=10$(POD_INDEX)", "--server-id=102");
        check("$(A)$(A)", "11");
        check("$$(A)", "$(A)");
        check("$(UNKNOWN) $A $", "$(UNKNOWN) $A $");
        check("$(A", "$(A");
    }
}
