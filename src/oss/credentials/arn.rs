//! Texts that a source is configured with, checked before they travel: roles, sessions, profiles.

/// `acs:ram::ACCOUNT:role/NAME`.
pub(super) fn is_role(text: &str) -> bool {
    let name = text
        .strip_prefix("acs:ram::")
        .and_then(|rest| rest.split_once(":role/"))
        .filter(|(account, _)| {
            (1..=32).contains(&account.len()) && account.bytes().all(|byte| byte.is_ascii_digit())
        });
    name.is_some_and(|(_, name)| is_plain(name, b"._-/@"))
}

/// `acs:ram::ACCOUNT:oidc-provider/NAME`.
pub(super) fn is_oidc_provider(text: &str) -> bool {
    text.strip_prefix("acs:ram::")
        .and_then(|rest| rest.split_once(":oidc-provider/"))
        .is_some_and(|(account, name)| {
            account.bytes().all(|byte| byte.is_ascii_digit()) && is_plain(name, b"._-/@:")
        })
}

/// The service's rule for the names of sessions.
pub(super) fn is_session(text: &str) -> bool {
    text.len() >= 2 && text.len() <= 64 && is_plain(text, b".@_-")
}

/// The name of a role of the instance, of a profile, of a region.
pub(super) fn is_name(text: &str) -> bool {
    is_plain(text, b"._-")
}

fn is_plain(text: &str, others: &[u8]) -> bool {
    (1..=256).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_service_are_accepted() {
        for (text, role) in [
            ("acs:ram::1234567890123456:role/backup", true),
            ("acs:ram::1:role/service-role/a.b", true),
            ("acs:ram::1:user/backup", false),
            ("acs:ram::x:role/backup", false),
            ("acs:ram:::role/backup", false),
            ("acs:ram::1:role/", false),
            ("acs:ram::1:role/a b", false),
            ("acs:ram::1:role/a&Action=DeleteUser", false),
            ("", false),
        ] {
            assert_eq!(is_role(text), role, "{text}");
        }
        assert!(is_oidc_provider("acs:ram::1:oidc-provider/ack-rrsa-c1"));
        assert!(!is_oidc_provider("acs:ram::1:role/ack-rrsa-c1"));
        for (text, session) in [("ab", true), ("a", false), ("a/b", false), ("a@b.c", true)] {
            assert_eq!(is_session(text), session, "{text}");
        }
        assert!(is_name("cn-hangzhou") && !is_name("../x") && !is_name(""));
    }
}
