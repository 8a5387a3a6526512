//! Webhooks: streams that take signed requests only, by `webhooks` of `starmere.yaml`.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use starmere_ingest::http::{Scheme, Signatures};
use starmere_models::define::suggestion;

use crate::failure::Mendable;
use crate::project::{is_reference, resolved};
use crate::sources::{Wrong, wrong};

/// A signed time may be so far from ours, in seconds, unless the project says otherwise; and at most.
const TOLERANCE_SECONDS: u32 = 300;
const MOST_TOLERANCE_SECONDS: u32 = 86_400;

/// How requests to a stream are signed.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WebhookFile {
    pub(crate) verify: Verify,
    /// References: `${env:NAME}` or `${file:PATH}`. A request is signed with one of them.
    pub(crate) secrets: Vec<String>,
    /// So far may the time that a request was signed at be from ours; 300 where it is left out.
    #[serde(default)]
    pub(crate) tolerance_seconds: Option<u32>,
}

/// Whose way to sign it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verify {
    Github,
    Stripe,
    /// Standard Webhooks.
    Standard,
}

impl WebhookFile {
    /// What is wrong with the webhook of `stream`, of the `known` streams.
    pub(crate) fn mistakes(&self, stream: &str, known: &BTreeSet<&str>) -> Vec<Wrong> {
        let mut mistakes = Vec::new();
        if !known.contains(stream) {
            let hint = suggestion(stream, known.iter().copied());
            mistakes.push(wrong(format!("there is no stream `{stream}` for the webhook"), hint));
        }
        if self.secrets.is_empty() {
            let hint = "write the secret of the webhook: secrets: [\"${env:NAME}\"]";
            mistakes.push(wrong(format!("the webhook of `{stream}` has no secret"), hint));
        }
        if self.secrets.iter().any(|secret| !is_reference(secret)) {
            let hint = "write a reference for each: ${env:NAME} or ${file:PATH}";
            mistakes.push(wrong(format!("a secret of the webhook of `{stream}` stands in the file"), hint));
        }
        match self.tolerance_seconds {
            Some(_) if self.verify == Verify::Github => {
                let message = format!("the webhook of `{stream}` has `tolerance_seconds`, and GitHub signs no time");
                mistakes.push(wrong(message, "leave it out"));
            }
            Some(seconds) if seconds == 0 || seconds > MOST_TOLERANCE_SECONDS => {
                let message = format!("the webhook of `{stream}` takes signatures of {seconds} s");
                mistakes.push(wrong(
                    message,
                    format!("write 1 to {MOST_TOLERANCE_SECONDS}, or leave it out: then it is {TOLERANCE_SECONDS}"),
                ));
            }
            _ => {}
        }
        mistakes
    }

    /// What requests to `stream` have to prove, with the secrets looked up; `root` is the project's folder.
    pub(crate) fn signatures(&self, stream: &str, root: &Path) -> anyhow::Result<Signatures> {
        let secrets = self.secrets.iter().map(|secret| resolved(root, secret));
        let secrets = secrets.collect::<anyhow::Result<Vec<String>>>()?;
        let scheme = match self.verify {
            Verify::Github => Scheme::GitHub,
            Verify::Stripe => Scheme::Stripe,
            Verify::Standard => Scheme::Standard,
        };
        let tolerance = Duration::from_secs(self.tolerance_seconds.unwrap_or(TOLERANCE_SECONDS).into());
        Signatures::new(scheme, &secrets, tolerance).map_err(|reason| {
            let hint = "put the secret of the webhook where `secrets` in starmere.yaml points to";
            Mendable::error(format!("the webhook of `{stream}`: {reason}"), hint)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(text: &str) -> WebhookFile {
        starmere_models::define::parse_text(text, "starmere.yaml").unwrap().definition
    }

    #[test]
    fn what_is_wrong_with_a_webhook_is_told() {
        let told = |text: &str| {
            let mistakes = webhook(text).mistakes("orders", &BTreeSet::from(["orders"]));
            mistakes.into_iter().map(|(message, _)| message).collect::<Vec<_>>()
        };
        assert_eq!(told("{ verify: github, secrets: ['${env:A}', '${file:b}'] }"), [""; 0]);
        assert_eq!(told("{ verify: stripe, secrets: ['${env:A}'], tolerance_seconds: 60 }"), [""; 0]);
        assert_eq!(told("{ verify: github, secrets: [] }"), ["the webhook of `orders` has no secret"]);
        let stands = ["a secret of the webhook of `orders` stands in the file"];
        for secret in ["abc", "${env:A", "x${env:A}", "${env:}"] {
            assert_eq!(told(&format!("{{ verify: standard, secrets: ['${{env:A}}', '{secret}'] }}")), stands);
        }
        let signed = "the webhook of `orders` has `tolerance_seconds`, and GitHub signs no time";
        assert_eq!(told("{ verify: github, secrets: ['${env:A}'], tolerance_seconds: 60 }"), [signed]);
        for seconds in [0, 86_401] {
            let text = format!("{{ verify: stripe, secrets: ['${{env:A}}'], tolerance_seconds: {seconds} }}");
            assert_eq!(told(&text), [format!("the webhook of `orders` takes signatures of {seconds} s")]);
        }
        let unknown =
            webhook("{ verify: github, secrets: ['${env:A}'] }").mistakes("order", &BTreeSet::from(["orders"]));
        assert_eq!(unknown[0].0, "there is no stream `order` for the webhook");
        assert!(unknown[0].1.contains("`orders`"), "{}", unknown[0].1);
    }

    #[test]
    fn secrets_are_looked_up() {
        let folder = tempfile::tempdir().unwrap();
        let signatures = |secret: &str| {
            std::fs::write(folder.path().join("secret"), secret).unwrap();
            webhook("{ verify: standard, secrets: ['${file:secret}'] }").signatures("orders", folder.path())
        };
        assert!(signatures("whsec_c2VjcmV0\n").is_ok());
        let error = signatures("\n").unwrap_err().to_string();
        assert_eq!(error, "the webhook of `orders`: secret 1 is empty");
        let error =
            webhook("{ verify: github, secrets: ['${env:STARMERE_NOBODY}'] }").signatures("orders", folder.path());
        assert!(error.unwrap_err().to_string().contains("`STARMERE_NOBODY` is not set"));
    }
}
