#include "cors.hpp"

namespace cube::agent {

http::ResponseHead CorsExchange::allow(http::ResponseHead head) const {
  head.headers.set("Access-Control-Allow-Origin", "*");
  if (inner_.request().method != "OPTIONS") {
    head.headers.set("Access-Control-Expose-Headers", "*");
    return head;
  }
  head.headers.set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE");
  // Browsers do not count Authorization as part of "*", so what was asked for is named.
  const auto asked = inner_.request().headers.get("Access-Control-Request-Headers");
  head.headers.set("Access-Control-Allow-Headers", asked.value_or("*"));
  head.headers.set("Access-Control-Max-Age", "7200");
  return head;
}

}  // namespace cube::agent
