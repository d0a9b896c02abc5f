"use strict";
(function () {
  var said = document.getElementById("said");

  // Buttons exist only where something can happen.
  document.querySelectorAll(".command").forEach(function (row) {
    var code = row.querySelector("code"), button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.setAttribute("aria-label", "Copy: " + code.textContent);
    button.addEventListener("click", function () { copy(code, button); });
    row.appendChild(button);
  });

  function copy(code, button) {
    function done(is_done) {
      button.textContent = is_done ? "Copied" : "Press Ctrl-C";
      said.textContent = is_done ? "Copied to the clipboard" : "Selected: press Ctrl-C to copy";
      setTimeout(function () { button.textContent = "Copy"; }, 2000);
    }
    function select() {
      var range = document.createRange(), selection = getSelection();
      range.selectNodeContents(code);
      selection.removeAllRanges();
      selection.addRange(range);
      var is_done = false;
      try { is_done = document.execCommand("copy"); } catch (error) { is_done = false; }
      done(is_done);
    }
    if (navigator.clipboard && navigator.clipboard.writeText) {
      navigator.clipboard.writeText(code.textContent).then(function () { done(true); }, select);
    } else {
      select();
    }
  }

  function two(number) { return (number < 10 ? "0" : "") + number; }
  function local(iso) {
    var when = new Date(iso), offset = -when.getTimezoneOffset(), size = Math.abs(offset);
    if (isNaN(when.getTime())) { return null; }
    return when.getFullYear() + "-" + two(when.getMonth() + 1) + "-" + two(when.getDate()) + " " +
      two(when.getHours()) + ":" + two(when.getMinutes()) + ":" + two(when.getSeconds()) +
      (offset < 0 ? "-" : "+") + two(Math.floor(size / 60)) + ":" + two(size % 60);
  }

  var times = Array.prototype.slice.call(document.querySelectorAll("time")).map(function (node) {
    return { node: node, utc: node.textContent, local: local(node.dateTime) || node.textContent };
  });
  times.forEach(function (each) { each.node.title = each.local + " local time"; });
  var span = document.getElementById("local"), zone = document.getElementById("zone");
  if (times.length && span) {
    var ends = span.parentNode.querySelectorAll("time");
    span.textContent = "(local: " + local(ends[0].dateTime) + " to " + local(ends[1].dateTime) + ")";
    span.hidden = false;
  }
  if (times.length) {
    document.getElementById("tools").hidden = false;
    zone.addEventListener("click", function () {
      var is_local = zone.getAttribute("aria-pressed") !== "true";
      zone.setAttribute("aria-pressed", String(is_local));
      times.forEach(function (each) { each.node.textContent = is_local ? each.local : each.utc; });
    });
  }

  var words = document.getElementById("words");
  if (words) {
    var stacks = Array.prototype.slice.call(document.querySelectorAll(".stack")).map(function (node) {
      return { node: node, text: node.textContent.toLowerCase() };
    });
    document.getElementById("search").hidden = false;
    words.addEventListener("input", function () {
      var asked = words.value.toLowerCase().split(/\s+/).filter(Boolean), found = 0;
      stacks.forEach(function (each) {
        var fits = asked.every(function (word) { return each.text.indexOf(word) >= 0; });
        each.node.hidden = !fits;
        each.node.open = fits && asked.length > 0;
        found += fits ? 1 : 0;
      });
      document.getElementById("matches").textContent = asked.length ? found + " of " + stacks.length : "";
    });
  }

  // On paper nothing can be unfolded.
  var unfolded = [];
  addEventListener("beforeprint", function () {
    unfolded = unfolded.concat(
      Array.prototype.slice.call(document.querySelectorAll("details:not([open])")));
    unfolded.forEach(function (each) { each.open = true; });
  });
  addEventListener("afterprint", function () {
    unfolded.forEach(function (each) { each.open = false; });
    unfolded = [];
  });
})();
