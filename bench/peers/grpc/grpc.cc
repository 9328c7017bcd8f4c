/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gRPC C++ by its asynchronous interface: a completion queue and one thread on
 * each side. The generic service moves bytes, so no protobuf is encoded, which
 * favours it a little. Each connection of a client is a channel of its own.
 */
#include "common/bench.h"

#include <cstdio>
#include <grpcpp/alarm.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace
{

grpc::ByteBuffer
bytes(size_t size)
{
	grpc::Slice slice(std::string(size, '\0'));
	return grpc::ByteBuffer(&slice, 1);
}

/* One call on the server; it deletes itself. */
class Handler
{
      public:
	Handler(grpc::AsyncGenericService &service,
	    grpc::ServerCompletionQueue &queue)
	    : service_(service), queue_(queue), stream_(&context_)
	{
		service.RequestCall(&context_, &stream_, &queue, &queue, this);
	}

	void Next(bool ok)
	{
		if (!ok || state_ == State::Answering) {
			delete this;
			return;
		}
		if (state_ == State::Waiting) {
			new Handler(service_, queue_);
			state_ = State::Reading;
			stream_.Read(&message_, this);
		} else {
			state_ = State::Answering;
			stream_.WriteAndFinish(message_, grpc::WriteOptions(),
			    grpc::Status::OK, this);
		}
	}

      private:
	enum class State { Waiting, Reading, Answering };
	grpc::AsyncGenericService &service_;
	grpc::ServerCompletionQueue &queue_;
	grpc::GenericServerContext context_;
	grpc::GenericServerAsyncReaderWriter stream_;
	grpc::ByteBuffer message_;
	State state_ = State::Waiting;
};

int
Serve(const bench_options *options)
{
	grpc::AsyncGenericService service;
	grpc::ServerBuilder builder;
	std::string address = options->address;
	int port = 0;
	builder.AddListeningPort(
	    address, grpc::InsecureServerCredentials(), &port);
	builder.RegisterAsyncGenericService(&service);
	auto queue = builder.AddCompletionQueue();
	auto server = builder.BuildAndStart();
	if (server == nullptr)
		bench_die("cannot listen on %s", options->address);
	new Handler(service, *queue);
	address.resize(address.rfind(':') + 1);
	bench_ready((address + std::to_string(port)).c_str(), nullptr);
	void *tag;
	bool ok;
	while (queue->Next(&tag, &ok))
		static_cast<Handler *>(tag)->Next(ok);
	return 0;
}

struct Call {
	std::unique_ptr<grpc::ClientContext> context;
	std::unique_ptr<grpc::GenericClientAsyncResponseReader> reader;
	grpc::ByteBuffer reply;
	grpc::Status status;
};

struct Client {
	bench_load *load;
	grpc::CompletionQueue queue;
	std::vector<std::unique_ptr<grpc::GenericStub>> stubs;
	std::vector<Call> calls;
	grpc::ByteBuffer request;
};

void
Start(void *arg, int slot)
{
	auto *client = static_cast<Client *>(arg);
	auto index = static_cast<size_t>(slot);
	Call &call = client->calls[index];
	call.reply.Clear();
	call.context = std::make_unique<grpc::ClientContext>();
	call.reader =
	    client->stubs[index % client->stubs.size()]->PrepareUnaryCall(
		call.context.get(), "/bench.Echo/Echo", client->request,
		&client->queue);
	call.reader->StartCall();
	/* A tag may not be NULL. */
	call.reader->Finish(&call.reply, &call.status, &call);
}

int
Drive(const bench_options *options, bench_load *load)
{
	Client client;
	client.load = load;
	client.request = bytes(options->size);
	client.calls.resize(
	    static_cast<size_t>(options->connections * options->outstanding));
	for (int i = 0; i < options->connections; i++) {
		grpc::ChannelArguments args;
		args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
		args.SetMaxReceiveMessageSize(-1);
		client.stubs.push_back(std::make_unique<grpc::GenericStub>(
		    grpc::CreateCustomChannel(options->address,
			grpc::InsecureChannelCredentials(), args)));
	}
	std::thread replies([&client] {
		void *tag;
		bool ok;
		while (client.queue.Next(&tag, &ok)) {
			auto *call = static_cast<Call *>(tag);
			if (!call->status.ok())
				bench_die(
				    "%s", call->status.error_message().c_str());
			int slot = bench_again(client.load,
			    static_cast<int>(call - client.calls.data()));
			if (slot >= 0)
				Start(&client, slot);
		}
	});
	bench_run(load, Start, &client);
	client.queue.Shutdown();
	replies.join();
	return 0;
}

} // namespace

int
main(int argc, char *argv[])
{
	const bench_peer peer = {
	    "grpc", BENCH_PIPELINE | BENCH_OPEN_LOOP, Serve, Drive};
	return bench_main(argc, argv, &peer);
}
