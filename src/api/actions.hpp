// What answers the routes; routes.cpp has the table.
#pragma once

#include "api/router.hpp"

namespace cube::api {

using Answering = asio::awaitable<std::optional<Answer>>;

Answering get_health(const Context&, Call&);
Answering list_teams(const Context&, Call&);
Answering get_status(const Context&, Call&);
Answering get_openapi(const Context&, Call&);

// sandboxes.cpp
Answering create_sandbox_v1(const Context&, Call&);
Answering create_sandbox_v2(const Context&, Call&);
Answering connect_sandbox_v1(const Context&, Call&);
Answering connect_sandbox_v2(const Context&, Call&);
Answering list_sandboxes_v1(const Context&, Call&);
Answering list_sandboxes_v2(const Context&, Call&);
Answering get_sandbox(const Context&, Call&);
Answering kill_sandbox(const Context&, Call&);
Answering set_sandbox_timeout(const Context&, Call&);
Answering refresh_sandbox(const Context&, Call&);
Answering pause_sandbox(const Context&, Call&);
Answering resume_sandbox(const Context&, Call&);

// observation.cpp
Answering get_sandbox_metrics(const Context&, Call&);
Answering get_latest_metrics(const Context&, Call&);
Answering get_sandbox_logs_v1(const Context&, Call&);
Answering get_sandbox_logs_v2(const Context&, Call&);

// sandbox_network.cpp
Answering set_sandbox_network(const Context&, Call&);

// checkpoints.cpp; E2B calls them snapshots
Answering take_snapshot(const Context&, Call&);
Answering list_snapshots(const Context&, Call&);
Answering fork_sandbox(const Context&, Call&);
Answering rollback_sandbox(const Context&, Call&);

// templates.cpp
Answering list_templates_v1(const Context&, Call&);
Answering list_templates_v2(const Context&, Call&);
Answering get_template(const Context&, Call&);
Answering remove_template(const Context&, Call&);
Answering update_template(const Context&, Call&);
Answering list_template_tags(const Context&, Call&);
Answering find_template_alias(const Context&, Call&);

// template_images.cpp
Answering build_template_from_image(const Context&, Call&);

/// The sandbox a call is about: `invalid_argument` for what cannot be an id.
Result<std::string> sandbox_id_of(const Call& call);
Answer sandbox_problem(const std::string& id, const Error& error);

/// E2B's text for a template that is not there: also tells a missing tag from a missing template.
Answer template_not_found(const Context& context, std::string_view reference);

}  // namespace cube::api
