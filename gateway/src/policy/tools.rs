//! Which tools a model may have where other users are.

use jetway_wire::Value;

/// The member of a session's config that says which tools there are.
pub(super) const MEMBER: &str = "availableTools";

/// The CLI's tools that the official SDKs call isolated: they keep to the session. Sources are the CLI's to know,
/// not the name's: `builtin:x` is never a tool of a client or of an MCP server that is called `x`.
const ISOLATED: [&str; 10] = [
    "ask_user",
    "task_complete",
    "exit_plan_mode",
    "task",
    "read_agent",
    "write_agent",
    "list_agents",
    "send_inbox",
    "context_board",
    "skill",
];

/// The CLI's other tools, of any version and on any system. A client's own tool may not be called as one of them:
/// 1.0.85 compares names only, so `custom:*` lets the CLI's tool through with the client's, and then runs the CLI's.
/// `tests/firewall` holds the list against the installed runtime.
const OF_THE_HOST: [&str; 37] = [
    "apply_patch",
    "bash",
    "create",
    "create_pull_request",
    "dynamic_workflows_manage",
    "edit",
    "factories_manage",
    "fetch_copilot_cli_documentation",
    "generic_tool_search",
    "glob",
    "grep",
    "list_bash",
    "list_powershell",
    "local_shell",
    "manage_schedule",
    "powershell",
    "read_bash",
    "read_inbox",
    "read_powershell",
    "reply_to_comment",
    "rg",
    "run_dynamic_workflow",
    "run_factory",
    "semantic_code_search",
    "session_store_sql",
    "sql",
    "stop_bash",
    "stop_powershell",
    "store_memory",
    "str_replace_editor",
    "tool_search_tool",
    "update_todo",
    "view",
    "web_fetch",
    "web_search",
    "write_bash",
    "write_powershell",
];

/// Whether one of the CLI's tools that reach the host has that name.
pub(super) fn reaches_the_host(name: &str) -> bool {
    OF_THE_HOST.contains(&name)
}

/// [`ISOLATED`], all of the client's own tools, and all of its MCP servers'.
pub(super) const INSIDE_ONLY: &str = r#"["builtin:ask_user","builtin:task_complete","builtin:exit_plan_mode","builtin:task","builtin:read_agent","builtin:write_agent","builtin:list_agents","builtin:send_inbox","builtin:context_board","builtin:skill","mcp:*","custom:*"]"#;

/// Whether a list names no tool that reaches the host. A name without a source may mean any source's.
pub(super) fn stay_inside(list: Value<'_>) -> bool {
    let inside = |entry: Value<'_>| {
        let entry = entry.as_str().unwrap_or_default();
        match entry.split_once(':') {
            Some(("mcp" | "custom", name)) => !name.is_empty(),
            Some(("builtin", name)) => ISOLATED.contains(&name),
            Some(_) => false,
            None => ISOLATED.contains(&&*entry),
        }
    };
    list.text().starts_with(b"[") && list.elements().all(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_imposed_is_what_is_allowed() {
        let list = Value::new(INSIDE_ONLY.as_bytes());
        assert!(stay_inside(list));
        assert_eq!(list.elements().count(), ISOLATED.len() + 2);
    }

    #[test]
    fn tools_of_the_host_are_known() {
        let inside = |json: &str| stay_inside(Value::new(json.as_bytes()));
        assert!(inside("[]") && inside(r#"["custom:deploy","mcp:github-list_issues","ask_user"]"#));
        for outside in [
            r#"["bash"]"#,
            r#"["builtin:*"]"#,
            r#"["builtin:bash"]"#,
            r#"["*"]"#,
            "[7]",
            "null",
            r#""custom:*""#,
            "{}",
            r#"["custom:"]"#,
            r#"["builtin:ask_user","builtin:view"]"#,
            r#"["BUILTIN:ask_user"]"#,
            r#"["x:ask_user"]"#,
        ] {
            assert!(!inside(outside), "{outside}");
        }
    }
}
