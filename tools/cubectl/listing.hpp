// Lists of the API, all their pages.
#pragma once

#include "client.hpp"
#include "json.hpp"

namespace cube::cubectl {

/// The items of every page, and the documents that hold them.
struct Listing {
  std::vector<JsonDocument> pages;
  std::vector<JsonValue> items;
};

/// `path` may have a query.
asio::awaitable<Result<Listing>> list_all(Client& client, std::string path);

/// "/v2/sandboxes?…" for sandboxes in `states` ("running,paused"; empty: both) with all of the "name=value"
/// pairs.
std::string sandboxes_path(const std::string& states, const std::vector<std::string>& metadata);

/// One JSON array to standard output.
void print_items(const std::vector<JsonValue>& items);

}  // namespace cube::cubectl
