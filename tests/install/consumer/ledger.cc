// SPDX-License-Identifier: Apache-2.0
// A registry plugin written in C++: what roster.c is, with the standard
// library. No exception may leave an op, so they end where they are called.
#include <svc/registry.h>

#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <utility>
#include <vector>

namespace
{

struct destroy_record {
	void operator()(svc_record *record) const
	{
		svc_record_destroy(record);
	}
};
using record_ptr = std::unique_ptr<svc_record, destroy_record>;
using record_key = std::pair<std::string, std::string>;

struct ledger {
	std::mutex lock; // guards what follows
	std::map<record_key, record_ptr> records;
};

svc_err
no_memory(svc_error *err)
{
	return svc_error_set(err, SVC_E_NOMEM, "ledger: out of memory");
}

svc_err
create(const svc_registry_config *, void **ret_self, svc_error *err)
{
	ledger *self = new (std::nothrow) ledger;
	if (self == nullptr)
		return no_memory(err);
	*ret_self = self;
	return SVC_OK;
}

void
destroy(void *arg)
{
	delete static_cast<ledger *>(arg);
}

svc_err
announce(void *arg, const svc_record *record, int64_t, svc_error *err)
{
	ledger *self = static_cast<ledger *>(arg);
	record_ptr copy(svc_record_copy(record));
	if (copy == nullptr)
		return no_memory(err);
	try {
		record_key key(record->name, record->nodes[0].id);
		std::lock_guard<std::mutex> guard(self->lock);
		self->records[key] = std::move(copy);
	} catch (const std::bad_alloc &) {
		return no_memory(err);
	}
	return SVC_OK;
}

svc_err
withdraw(void *arg, const svc_record *record, svc_error *err)
{
	ledger *self = static_cast<ledger *>(arg);
	try {
		record_key key(record->name, record->nodes[0].id);
		std::lock_guard<std::mutex> guard(self->lock);
		self->records.erase(key);
	} catch (const std::bad_alloc &) {
		return no_memory(err);
	}
	return SVC_OK;
}

// Copies what fits, so that the sink runs without the lock.
svc_err
report(ledger *self, const char *service, svc_record_sink sink, void *sink_arg,
    svc_error *err)
{
	try {
		std::vector<record_ptr> found;
		{
			std::lock_guard<std::mutex> guard(self->lock);
			for (const auto &entry : self->records) {
				if (service != nullptr &&
				    entry.first.first != service)
					continue;
				found.emplace_back(
				    svc_record_copy(entry.second.get()));
				if (found.back() == nullptr)
					return no_memory(err);
			}
		}
		for (const record_ptr &record : found)
			sink(record.get(), sink_arg);
	} catch (const std::bad_alloc &) {
		return no_memory(err);
	}
	return SVC_OK;
}

svc_err
lookup(void *arg, const char *service, svc_record_sink sink, void *sink_arg,
    svc_error *err)
{
	return report(static_cast<ledger *>(arg), service, sink, sink_arg, err);
}

svc_err
list(void *arg, svc_record_sink sink, void *sink_arg, svc_error *err)
{
	return report(static_cast<ledger *>(arg), nullptr, sink, sink_arg, err);
}

svc_registry_ops
make_ops()
{
	svc_registry_ops ops{};
	ops.abi = SVC_REGISTRY_ABI;
	ops.size = sizeof(ops);
	ops.name = "ledger";
	ops.create = create;
	ops.destroy = destroy;
	ops.announce = announce;
	ops.withdraw = withdraw;
	ops.lookup = lookup;
	ops.list = list;
	return ops;
}

const svc_registry_ops ops = make_ops();

} // namespace

SVC_PLUGIN(ops);
