// SPDX-License-Identifier: Apache-2.0
// The same library from C++17, where options are an array: a service that is
// found and called within one process.
#include <svc/svc.h>

#include <cstdio>
#include <string>

static svc_err
get(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	std::string who(static_cast<const char *>(req->data), req->len);
	return svc_reply_text(call, rsp, "text/plain", "%s %s",
	    static_cast<const char *>(arg), who.c_str());
}

static svc_option
text(int kind, const char *value)
{
	svc_option option{};
	option.kind = kind;
	option.text = value;
	return option;
}

int
main()
{
	const svc_option options[] = {
	    text(SVC_OPTION_NAME, "student"),
	    text(SVC_OPTION_REGISTRY, "memory"),
	    text(SVC_OPTION_BROKER, "memory"),
	    text(SVC_OPTION_ADDRESS, "127.0.0.1:0"),
	    text(SVC_OPTION_END, nullptr),
	};
	char greeting[] = "hello";
	svc_service *s = svc_new_options(options);
	if (svc_handle_options(s, "Student.Get", get, greeting, nullptr) !=
		SVC_OK ||
	    svc_init(s, 0, nullptr) != SVC_OK || svc_start(s) != SVC_OK) {
		std::fprintf(stderr, "%s\n", svc_error_text(s));
		return 1;
	}

	const std::string who = "Ada";
	const svc_message req = {"text/plain", who.data(), who.size(), nullptr};
	svc_message rsp{};
	svc_error detail{};
	svc_option call_options[2] = {};
	call_options[0].kind = SVC_OPTION_DETAIL;
	call_options[0].pointer = &detail;
	svc_err err = svc_call_options(svc_client_of(s), "student",
	    "Student.Get", &req, &rsp, call_options);
	std::string answer(static_cast<const char *>(rsp.data), rsp.len);
	std::printf(
	    "%s: %s%s\n", svc_err_name(err), answer.c_str(), detail.text);
	svc_message_free(&rsp);
	svc_free(s);
	return err == SVC_OK && answer == "hello Ada" ? 0 : 1;
}
