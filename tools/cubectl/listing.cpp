#include "listing.hpp"

namespace cube::cubectl {

asio::awaitable<Result<Listing>> list_all(Client& client, std::string path) {
  Listing listing;
  std::string next;
  do {
    std::string page = path;
    if (!next.empty())
      page += (path.find('?') == path.npos ? "?nextToken=" : "&nextToken=") + url_encode(next);
    const auto answer = co_await client.request("GET", std::move(page));
    if (!answer.ok()) co_return answer.error();
    auto document = JsonDocument::parse(answer->body);
    if (!document) co_return std::move(document).error();
    const auto items = json_array(document->root());
    listing.items.insert(listing.items.end(), items.begin(), items.end());
    listing.pages.push_back(std::move(*document));
    const std::string token(answer->headers.get("X-Next-Token").value_or(""));
    if (!token.empty() && token == next)
      co_return make_error(ErrorCode::unavailable, "the daemon's list has no end", path);
    next = token;
  } while (!next.empty());
  co_return listing;
}

std::string sandboxes_path(const std::string& states, const std::vector<std::string>& metadata) {
  std::string path = "/v2/sandboxes?limit=100";
  if (!states.empty()) path += "&state=" + url_encode(states);
  if (metadata.empty()) return path;
  // Names and values are encoded, then the pairs together, then the query as any: servers of this API decode
  // as often.
  std::string pairs;
  for (const std::string& pair : metadata) {
    const std::size_t equals = pair.find('=');
    if (!pairs.empty()) pairs += '&';
    pairs += url_encode(pair.substr(0, equals)) + "=" + url_encode(pair.substr(equals + 1));
  }
  return path + "&metadata=" + url_encode(url_encode(pairs));
}

void print_items(const std::vector<JsonValue>& items) {
  std::string text = "[";
  for (const JsonValue item : items) {
    if (text.size() > 1) text += ',';
    text += simdjson::minify(item);
  }
  print_json(text + "]");
}

}  // namespace cube::cubectl
