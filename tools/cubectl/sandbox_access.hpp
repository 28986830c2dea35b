// A sandbox's own services, through the daemon's proxy: which sandbox, with which token, as which user.
#pragma once

#include <string>
#include <vector>

#include "client.hpp"

namespace cube::cubectl {

struct Sandbox {
  std::string id;
  std::string access_token;
  std::string user;  ///< who acts inside; empty: the sandbox's default user
};

/// Looks a sandbox up. One that is paused is resumed; the timeout of one that runs stays as it is.
asio::awaitable<Result<Sandbox>> reach_sandbox(Client& client, std::string id, std::string user);

/// A request of the sandbox's agent, with whatever it takes to get there and to be let in.
http::RequestHead agent_head(const Client& client, const Sandbox& sandbox, std::string method,
                             std::string path, std::string_view content_type);

/// One unary call: `path` is "/process.Process/List".
asio::awaitable<Result<std::string>> call_agent(Client& client, const Sandbox& sandbox, std::string path,
                                                std::string json);

}  // namespace cube::cubectl
