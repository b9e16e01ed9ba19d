//! Whether a server keeps what it is told. Pure: the server's own words in, a judgement out.

use millrace_core::health::{Trouble, TroubleReason};

/// What a server says about itself that matters here.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerWords<'a> {
    /// The sections `memory` and `persistence` of `INFO`.
    pub(super) info: &'a str,
    /// The setting `appendfsync`; `None` where it may not be read.
    pub(super) appendfsync: Option<&'a str>,
}

/// What may be lost in a crash of the server; nothing when it writes down each claim before it answers.
///
/// # Errors
/// `StoreUnsafe` when the server forgets claims in its everyday work.
pub(super) fn durability(words: ServerWords<'_>) -> Result<Option<String>, Trouble> {
    let line = |name: &str| words.info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let policy = line("maxmemory_policy").unwrap_or("unknown").trim();
    if policy != "noeviction" {
        return Err(Trouble::new(
            TroubleReason::StoreUnsafe,
            format!(
                "the Redis server's maxmemory-policy is {policy}, by which it forgets claims when its memory is full; set it to noeviction"
            ),
        ));
    }
    if line("aof_enabled").is_none_or(|enabled| enabled.trim() != "1") {
        let loses = "the Redis server has appendonly off: a crash of it forgets claims and done events, whose effects may then happen again; set appendonly yes and appendfsync always";
        return Ok(Some(loses.to_owned()));
    }
    Ok(match words.appendfsync {
        Some("always") => None,
        Some(other) => Some(format!(
            "the Redis server has appendfsync {other}: a crash of its node forgets the claims and done events of the last moments, whose effects may then happen again; set appendfsync always"
        )),
        None => Some(
            "the Redis server does not let this user read appendfsync: unless it is always, a crash of its node forgets the claims and done events of the last moments; allow CONFIG GET to be sure"
                .to_owned(),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(policy: &str, aof: &str, appendfsync: Option<&str>) -> Result<Option<String>, Trouble> {
        let info =
            format!("# Memory\r\nmaxmemory:0\r\nmaxmemory_policy:{policy}\r\n# Persistence\r\naof_enabled:{aof}\r\n");
        durability(ServerWords { info: &info, appendfsync })
    }

    #[test]
    fn a_server_that_forgets_at_will_is_refused_and_one_that_forgets_in_a_crash_is_told_about() {
        assert_eq!(judged("noeviction", "1", Some("always")).unwrap(), None);
        for (aof, appendfsync, told) in
            [("1", Some("everysec"), "everysec"), ("1", None, "CONFIG GET"), ("0", Some("always"), "appendonly off")]
        {
            let note = judged("noeviction", aof, appendfsync).unwrap().unwrap();
            assert!(note.contains(told), "{note}");
        }
        let refused = judged("volatile-lru", "1", Some("always")).unwrap_err();
        assert_eq!(refused.reason, TroubleReason::StoreUnsafe);
        assert!(refused.message.contains("volatile-lru") && refused.message.contains("noeviction"), "{refused}");
        assert_eq!(
            durability(ServerWords { info: "", appendfsync: None }).unwrap_err().reason,
            TroubleReason::StoreUnsafe
        );
    }
}
