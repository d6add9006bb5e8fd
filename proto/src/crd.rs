//! The CustomResourceDefinitions, generated from the types above. Structural;
//! object levels keep unknown fields beside their schema, so that a mistake is
//! reported by us and never pruned silently by the apiserver.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

/// Every CRD, by name of its file.
pub fn all() -> Result<Vec<(&'static str, Value)>, serde_json::Error> {
    let crds: [(&'static str, CustomResourceDefinition); 5] = [
        ("experiments", crate::experiment::Experiment::crd()),
        ("runs", crate::run::Run::crd()),
        ("ceilings", crate::ceiling::Ceiling::crd()),
        ("halts", crate::halt::HaltObject::crd()),
        ("faultrecords", crate::record::FaultRecord::crd()),
    ];
    crds.into_iter().map(|(name, crd)| Ok((name, finished(serde_json::to_value(crd)?)))).collect()
}

fn finished(mut crd: Value) -> Value {
    let versions = crd.pointer_mut("/spec/versions").and_then(Value::as_array_mut);
    for version in versions.into_iter().flatten() {
        if let Some(spec) = version.pointer_mut("/schema/openAPIV3Schema/properties/spec") {
            keep_unknown(spec);
        }
        if let Some(status) = version.pointer_mut("/schema/openAPIV3Schema/properties/status") {
            without_defaults(status);
        }
    }
    if let Some(metadata) = crd.get_mut("metadata").and_then(Value::as_object_mut) {
        let keep = serde_json::json!({ "helm.sh/resource-policy": "keep" });
        metadata.insert("annotations".to_owned(), keep);
    }
    crd
}

/// Marks every object level that has named properties. Defaults are ours to apply when reading: the apiserver
/// would write them into what people wrote.
fn keep_unknown(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    map.remove("default");
    if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(keep_unknown);
        map.insert("x-kubernetes-preserve-unknown-fields".to_owned(), Value::Bool(true));
    }
    if let Some(items) = map.get_mut("items") {
        keep_unknown(items);
    }
}

fn without_defaults(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    map.remove("default");
    map.values_mut().for_each(without_defaults);
}

/// Every CRD as one YAML text.
pub fn yaml() -> Result<String, serde_json::Error> {
    let documents = all()?.into_iter().map(|(_, crd)| document(&crd));
    Ok(documents.collect::<Vec<_>>().join("---\n"))
}

/// One CRD as YAML.
pub fn document(crd: &Value) -> String {
    serde_saphyr::to_string(crd).unwrap_or_default()
}
