//! A pod's volumes as folders: claims (kept for as long as the claim is there), ConfigMaps, Secrets, tokens and the pod's
//! own fields (written again when they change), empty folders. Files of one volume change all at once, by a link, as the
//! kubelet does it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapProjection, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, SecretProjection,
    ServiceAccount, ServiceAccountTokenProjection, Volume, VolumeProjection,
};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::environment::{Sources, field_of};
use super::process::Mount;

/// The volumes of one pod.
pub(super) struct Volumes {
    pub(super) client: Client,
    pub(super) namespace: String,
    /// The pod's own folder.
    pub(super) folder: PathBuf,
    /// Where the folders of claims are.
    pub(super) claims: PathBuf,
    pub(super) address: String,
    /// What variables last came from, for the time when the API server is away.
    pub(super) remembered: Mutex<Option<Sources>>,
}

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    content: Vec<u8>,
    mode: u32,
}

type Files = BTreeMap<String, Entry>;

impl Volumes {
    /// Makes what is not there yet, and writes again what has changed. Err says what is missing.
    pub(super) async fn prepare(&self, pod: &Pod) -> Result<(), String> {
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            self.prepare_one(pod, volume).await.map_err(|why| format!("volume {}: {why}", volume.name))?;
        }
        Ok(())
    }

    async fn prepare_one(&self, pod: &Pod, volume: &Volume) -> Result<(), String> {
        let folder = self.place(volume);
        if volume.persistent_volume_claim.is_some() {
            // Made when the claim was bound.
            return match folder.is_dir() {
                true => own(pod, &folder),
                false => Err("its claim is not bound".to_owned()),
            };
        }
        if volume.empty_dir.is_some() {
            if !folder.is_dir() {
                fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
                fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))
                    .map_err(|error| error.to_string())?;
                own(pod, &folder)?;
            }
            return Ok(());
        }
        let mut files = Files::new();
        if let Some(map) = &volume.config_map {
            let mode = mode_of(map.default_mode);
            let projection = ConfigMapProjection {
                name: map.name.clone(),
                items: map.items.clone(),
                optional: map.optional,
            };
            self.config_map(&projection, mode, &mut files).await?;
        } else if let Some(secret) = &volume.secret {
            let projection = SecretProjection {
                name: secret.secret_name.clone().unwrap_or_default(),
                items: secret.items.clone(),
                optional: secret.optional,
            };
            self.secret(&projection, mode_of(secret.default_mode), &mut files).await?;
        } else if let Some(fields) = &volume.downward_api {
            self.fields(
                pod,
                fields.items.as_deref().unwrap_or_default(),
                mode_of(fields.default_mode),
                &mut files,
            )?;
        } else if let Some(projected) = &volume.projected {
            let mode = mode_of(projected.default_mode);
            for source in projected.sources.iter().flatten() {
                self.project(pod, source, mode, &folder, &mut files).await?;
            }
        } else {
            return Err("a kind of volume that is not known here".to_owned());
        }
        write(pod, &folder, &files).map_err(|error| format!("{}: {error}", folder.display()))
    }

    async fn project(
        &self,
        pod: &Pod,
        source: &VolumeProjection,
        mode: u32,
        folder: &Path,
        files: &mut Files,
    ) -> Result<(), String> {
        if let Some(map) = &source.config_map {
            self.config_map(map, mode, files).await?;
        }
        if let Some(secret) = &source.secret {
            self.secret(secret, mode, files).await?;
        }
        if let Some(fields) = &source.downward_api {
            self.fields(pod, fields.items.as_deref().unwrap_or_default(), mode, files)?;
        }
        if let Some(token) = &source.service_account_token {
            // Tokens last longer than tests.
            let content = match fs::read(folder.join(&token.path)) {
                Ok(content) => content,
                Err(_) => self.token(pod, token).await?,
            };
            // As the kubelet: readable by the pod's user, whoever that is.
            files.insert(token.path.clone(), Entry { content, mode: 0o644 });
        }
        Ok(())
    }

    async fn config_map(
        &self,
        map: &ConfigMapProjection,
        mode: u32,
        files: &mut Files,
    ) -> Result<(), String> {
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), &self.namespace);
        let Some(found) = api.get_opt(&map.name).await.map_err(|error| error.to_string())? else {
            return missing("configmap", &map.name, map.optional);
        };
        let text = found.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes()));
        let binary = found.binary_data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0));
        select(text.chain(binary).collect(), map.items.as_deref(), mode, files)
    }

    async fn secret(&self, secret: &SecretProjection, mode: u32, files: &mut Files) -> Result<(), String> {
        let api = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let Some(found) = api.get_opt(&secret.name).await.map_err(|error| error.to_string())? else {
            return missing("secret", &secret.name, secret.optional);
        };
        let data = found.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0)).collect();
        select(data, secret.items.as_deref(), mode, files)
    }

    fn fields(
        &self,
        pod: &Pod,
        items: &[DownwardAPIVolumeFile],
        mode: u32,
        files: &mut Files,
    ) -> Result<(), String> {
        for item in items {
            let field = item.field_ref.as_ref().ok_or("only fieldRef is known here")?;
            let content = field_of(pod, &self.address, &field.field_path)?.into_bytes();
            files.insert(
                item.path.clone(),
                Entry { content, mode: item.mode.map_or(mode, |mode| mode_of(Some(mode))) },
            );
        }
        Ok(())
    }

    async fn token(&self, pod: &Pod, token: &ServiceAccountTokenProjection) -> Result<Vec<u8>, String> {
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        let account = account.unwrap_or_else(|| "default".to_owned());
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: token.audience.iter().cloned().collect(),
                expiration_seconds: token.expiration_seconds,
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            },
            ..TokenRequest::default()
        };
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), &self.namespace);
        let answer = api.create_token_request(&account, &PostParams::default(), &request).await;
        let answer = answer.map_err(|error| format!("no token for {account}: {error}"))?;
        Ok(answer.status.map(|status| status.token.into_bytes()).unwrap_or_default())
    }

    /// ConfigMaps and Secrets that variables of this pod refer to, as far as they are there.
    pub(super) async fn sources(&self, pod: &Pod) -> Result<Sources, String> {
        match timeout(Duration::from_secs(2), self.read_sources(pod)).await {
            Ok(Ok(sources)) => {
                *self.remembered.lock() = Some(sources.clone());
                Ok(sources)
            }
            Ok(Err(why)) => self.remembered.lock().clone().ok_or(why),
            Err(_) => self.remembered.lock().clone().ok_or_else(|| "no answer in time".to_owned()),
        }
    }

    async fn read_sources(&self, pod: &Pod) -> Result<Sources, String> {
        let spec = pod.spec.clone().unwrap_or_default();
        let mut wanted = Vec::new();
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            for from in container.env_from.iter().flatten() {
                wanted.extend(from.config_map_ref.iter().map(|map| ("ConfigMap", map.name.clone())));
                wanted.extend(from.secret_ref.iter().map(|secret| ("Secret", secret.name.clone())));
            }
            for from in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
                wanted.extend(from.config_map_key_ref.iter().map(|map| ("ConfigMap", map.name.clone())));
                wanted.extend(from.secret_key_ref.iter().map(|secret| ("Secret", secret.name.clone())));
            }
        }
        wanted.sort();
        wanted.dedup();
        let mut sources = Sources::new();
        for (kind, name) in wanted {
            let mut files = Files::new();
            let found = match kind {
                "Secret" => {
                    let all = SecretProjection { name: name.clone(), items: None, optional: Some(false) };
                    self.secret(&all, 0, &mut files).await
                }
                _ => {
                    let all = ConfigMapProjection { name: name.clone(), items: None, optional: Some(false) };
                    self.config_map(&all, 0, &mut files).await
                }
            };
            match found {
                Ok(()) => {}
                Err(why) if why.contains("not found") => continue,
                Err(why) => return Err(why),
            }
            let text = |entry: Entry| String::from_utf8_lossy(&entry.content).into_owned();
            sources.insert((kind, name), files.into_iter().map(|(key, entry)| (key, text(entry))).collect());
        }
        Ok(sources)
    }

    /// The mounts of a container, outer ones first.
    pub(super) fn mounts(
        &self,
        pod: &Pod,
        container: &k8s_openapi::api::core::v1::Container,
        variables: &[(String, String)],
    ) -> Result<Vec<Mount>, String> {
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.clone()).unwrap_or_default();
        let mut mounts = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let volume = volumes.iter().find(|volume| volume.name == mount.name);
            let volume = volume.ok_or_else(|| format!("there is no volume {}", mount.name))?;
            let expression =
                mount.sub_path_expr.as_ref().map(|path| super::environment::expand(path, variables));
            let from = match expression.as_ref().or(mount.sub_path.as_ref()) {
                None => self.place(volume),
                Some(below) => {
                    let place = self.place(volume).join(below);
                    if !place.exists() {
                        fs::create_dir_all(&place)
                            .map_err(|error| format!("{}: {error}", place.display()))?;
                        own(pod, &place)?;
                    }
                    place
                }
            };
            let claims = volume.persistent_volume_claim.is_some() || volume.empty_dir.is_some();
            let read_only = !claims || mount.read_only.unwrap_or(false);
            mounts.push(Mount { from, to: mount.mount_path.clone(), read_only });
        }
        mounts.sort_by_key(|mount| mount.to.trim_end_matches('/').matches('/').count());
        Ok(mounts)
    }

    fn place(&self, volume: &Volume) -> PathBuf {
        match &volume.persistent_volume_claim {
            Some(claim) => self.claims.join(&claim.claim_name),
            None => self.folder.join("volumes").join(&volume.name),
        }
    }
}

fn missing(kind: &str, name: &str, optional: Option<bool>) -> Result<(), String> {
    match optional {
        Some(true) => Ok(()),
        _ => Err(format!("{kind} \"{name}\" not found")),
    }
}

fn mode_of(mode: Option<i32>) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o644)
}

/// All keys, or those that are asked for, by the paths that are asked for.
fn select(
    data: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    mode: u32,
    files: &mut Files,
) -> Result<(), String> {
    let Some(items) = items else {
        files.extend(data.into_iter().map(|(key, content)| (key, Entry { content, mode })));
        return Ok(());
    };
    for item in items {
        let content = data.get(&item.key).cloned().ok_or_else(|| format!("it has no key {}", item.key))?;
        let mode = item.mode.map_or(mode, |mode| mode_of(Some(mode)));
        files.insert(item.path.clone(), Entry { content, mode });
    }
    Ok(())
}

/// `name -> ..data/name`, `..data -> ..N`: a reader sees the files before or the files after.
fn write(pod: &Pod, folder: &Path, files: &Files) -> std::io::Result<()> {
    let data = folder.join("..data");
    let same = data.is_dir()
        && files.iter().all(|(path, entry)| fs::read(data.join(path)).is_ok_and(|now| now == entry.content));
    if same {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    let number = fs::read_link(&data)
        .ok()
        .and_then(|link| link.to_string_lossy().trim_start_matches('.').parse::<u32>().ok())
        .map_or(0, |number| number + 1);
    let next = folder.join(format!("..{number}"));
    let group = group_of(pod);
    for (path, entry) in files {
        let file = next.join(path);
        fs::create_dir_all(file.parent().unwrap_or(&next))?;
        fs::write(&file, &entry.content)?;
        // A group of the pod's may always read.
        let more = if group.is_some() { 0o040 } else { 0 };
        fs::set_permissions(&file, fs::Permissions::from_mode(entry.mode | more))?;
        chown(&file, None, group)?;
    }
    fs::create_dir_all(&next)?;
    let link = folder.join("..data_next");
    let _ = fs::remove_file(&link);
    symlink(format!("..{number}"), &link)?;
    fs::rename(&link, &data)?;
    for path in files.keys() {
        let top = path.split('/').next().unwrap_or(path);
        let seen = folder.join(top);
        if fs::symlink_metadata(&seen).is_err() {
            symlink(Path::new("..data").join(top), &seen)?;
        }
    }
    Ok(())
}

fn group_of(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    u32::try_from(context.fs_group?).ok()
}

/// What `fsGroup` says of a folder; what is in it was made by that group.
fn own(pod: &Pod, folder: &Path) -> Result<(), String> {
    let Some(group) = group_of(pod) else { return Ok(()) };
    let complain = |error: std::io::Error| format!("{}: {error}", folder.display());
    chown(folder, None, Some(group)).map_err(complain)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o2775)).map_err(complain)
}
