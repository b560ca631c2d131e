// A view of JSON text, for the configuration that Triton hands over. The text is the server's own and well formed, so
// nothing is checked here but the end of the text, and nothing is copied: a value is the piece of text that spells it.
#pragma once

#include <cctype>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

class Json {
 public:
  explicit Json(std::string_view text = {}) : text_(text) {}

  std::string_view raw() const { return text_; }

  // The value of a key of an object; an empty view, whose members are empty too, where there is none.
  Json operator[](std::string_view key) const {
    for (const auto& [name, value] : members()) {
      if (name == key) return value;
    }
    return Json();
  }

  std::vector<std::pair<std::string, Json>> members() const {
    std::vector<std::pair<std::string, Json>> found;
    if (text_.empty() || text_[0] != '{') return found;
    for (size_t at = next(1); at < text_.size() && text_[at] == '"';) {
      size_t end = skip(at);
      std::string name = Json(text_.substr(at, end - at)).text();
      at = next(end + 1 + gap(end));
      end = skip(at);
      found.emplace_back(std::move(name), Json(text_.substr(at, end - at)));
      at = next(end);
    }
    return found;
  }

  std::vector<Json> items() const {
    std::vector<Json> found;
    if (text_.empty() || text_[0] != '[') return found;
    for (size_t at = next(1); at < text_.size() && text_[at] != ']';) {
      size_t end = skip(at);
      found.emplace_back(text_.substr(at, end - at));
      at = next(end);
    }
    return found;
  }

  std::string text() const {
    std::string found;
    for (size_t at = 1; at + 1 < text_.size(); ++at) {
      if (text_[at] != '\\') {
        found += text_[at];
      } else if (text_[++at] == 'u') {
        append_utf8(found, std::strtoul(std::string(text_.substr(at + 1, 4)).c_str(), nullptr, 16));
        at += 4;
      } else {
        static constexpr std::string_view kFrom = "bfnrt", kTo = "\b\f\n\r\t";
        const size_t which = kFrom.find(text_[at]);
        found += which == std::string_view::npos ? text_[at] : kTo[which];
      }
    }
    return found;
  }

  // Protobuf's JSON may write a number of 64 bits as a string.
  long number(long otherwise = 0) const {
    if (text_.empty()) return otherwise;
    const std::string digits = text_[0] == '"' ? text() : std::string(text_);
    char* end = nullptr;
    const long value = std::strtol(digits.c_str(), &end, 10);
    return end == digits.c_str() ? otherwise : value;
  }

 private:
  size_t gap(size_t at) const {
    size_t width = 0;
    while (at + width < text_.size() && std::isspace(static_cast<unsigned char>(text_[at + width]))) ++width;
    return width;
  }

  // Where the next value begins, after spaces and commas.
  size_t next(size_t at) const {
    while (at < text_.size() && (text_[at] == ',' || std::isspace(static_cast<unsigned char>(text_[at])))) ++at;
    return at;
  }

  // Where the value that begins here ends.
  size_t skip(size_t at) const {
    int depth = 0;
    bool quoted = false;
    for (; at < text_.size(); ++at) {
      const char c = text_[at];
      if (quoted) {
        if (c == '\\') {
          ++at;
        } else if (c == '"') {
          quoted = false;
          if (depth == 0) return at + 1;
        }
      } else if (c == '"') {
        quoted = true;
      } else if (c == '{' || c == '[') {
        ++depth;
      } else if (c == '}' || c == ']') {
        if (depth == 0) return at;
        if (--depth == 0) return at + 1;
      } else if (depth == 0 && (c == ',' || std::isspace(static_cast<unsigned char>(c)))) {
        return at;
      }
    }
    return text_.size();
  }

  static void append_utf8(std::string& to, unsigned long code) {  // of a character below U+10000
    if (code < 0x80) {
      to += static_cast<char>(code);
    } else if (code < 0x800) {
      to += {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
    } else {
      to += {static_cast<char>(0xE0 | code >> 12), static_cast<char>(0x80 | (code >> 6 & 0x3F)),
             static_cast<char>(0x80 | (code & 0x3F))};
    }
  }

  std::string_view text_;
};
