package io.changefeed.v1;

import static io.grpc.MethodDescriptor.generateFullMethodName;

/**
 * <pre>
 * Reads the changes of collections in several databases through one contract.
 * Delivery is at least once, in commit order for every key, with stable event ids. Every answer carries a token
 * that resumes. Every error is a google.rpc.Status with an ErrorInfo whose metadata hold category, retryable,
 * provider and request_id.
 * </pre>
 */
@io.grpc.stub.annotations.GrpcGenerated
public final class ChangeFeedServiceGrpc {

  private ChangeFeedServiceGrpc() {}

  public static final java.lang.String SERVICE_NAME = "changefeed.v1.ChangeFeedService";

  // Static method descriptors that strictly reflect the proto.
  private static volatile io.grpc.MethodDescriptor<io.changefeed.v1.ReadChangesRequest,
      io.changefeed.v1.ReadChangesResponse> getReadChangesMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "ReadChanges",
      requestType = io.changefeed.v1.ReadChangesRequest.class,
      responseType = io.changefeed.v1.ReadChangesResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<io.changefeed.v1.ReadChangesRequest,
      io.changefeed.v1.ReadChangesResponse> getReadChangesMethod() {
    io.grpc.MethodDescriptor<io.changefeed.v1.ReadChangesRequest, io.changefeed.v1.ReadChangesResponse> getReadChangesMethod;
    if ((getReadChangesMethod = ChangeFeedServiceGrpc.getReadChangesMethod) == null) {
      synchronized (ChangeFeedServiceGrpc.class) {
        if ((getReadChangesMethod = ChangeFeedServiceGrpc.getReadChangesMethod) == null) {
          ChangeFeedServiceGrpc.getReadChangesMethod = getReadChangesMethod =
              io.grpc.MethodDescriptor.<io.changefeed.v1.ReadChangesRequest, io.changefeed.v1.ReadChangesResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "ReadChanges"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  io.changefeed.v1.ReadChangesRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  io.changefeed.v1.ReadChangesResponse.getDefaultInstance()))
              .setSchemaDescriptor(new ChangeFeedServiceMethodDescriptorSupplier("ReadChanges"))
              .build();
        }
      }
    }
    return getReadChangesMethod;
  }

  private static volatile io.grpc.MethodDescriptor<io.changefeed.v1.ListPhysicalPartitionsRequest,
      io.changefeed.v1.ListPhysicalPartitionsResponse> getListPhysicalPartitionsMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "ListPhysicalPartitions",
      requestType = io.changefeed.v1.ListPhysicalPartitionsRequest.class,
      responseType = io.changefeed.v1.ListPhysicalPartitionsResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<io.changefeed.v1.ListPhysicalPartitionsRequest,
      io.changefeed.v1.ListPhysicalPartitionsResponse> getListPhysicalPartitionsMethod() {
    io.grpc.MethodDescriptor<io.changefeed.v1.ListPhysicalPartitionsRequest, io.changefeed.v1.ListPhysicalPartitionsResponse> getListPhysicalPartitionsMethod;
    if ((getListPhysicalPartitionsMethod = ChangeFeedServiceGrpc.getListPhysicalPartitionsMethod) == null) {
      synchronized (ChangeFeedServiceGrpc.class) {
        if ((getListPhysicalPartitionsMethod = ChangeFeedServiceGrpc.getListPhysicalPartitionsMethod) == null) {
          ChangeFeedServiceGrpc.getListPhysicalPartitionsMethod = getListPhysicalPartitionsMethod =
              io.grpc.MethodDescriptor.<io.changefeed.v1.ListPhysicalPartitionsRequest, io.changefeed.v1.ListPhysicalPartitionsResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "ListPhysicalPartitions"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  io.changefeed.v1.ListPhysicalPartitionsRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  io.changefeed.v1.ListPhysicalPartitionsResponse.getDefaultInstance()))
              .setSchemaDescriptor(new ChangeFeedServiceMethodDescriptorSupplier("ListPhysicalPartitions"))
              .build();
        }
      }
    }
    return getListPhysicalPartitionsMethod;
  }

  private static volatile io.grpc.MethodDescriptor<io.changefeed.v1.SubscribeRequest,
      io.changefeed.v1.SubscribeResponse> getSubscribeMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "Subscribe",
      requestType = io.changefeed.v1.SubscribeRequest.class,
      responseType = io.changefeed.v1.SubscribeResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.SERVER_STREAMING)
  public static io.grpc.MethodDescriptor<io.changefeed.v1.SubscribeRequest,
      io.changefeed.v1.SubscribeResponse> getSubscribeMethod() {
    io.grpc.MethodDescriptor<io.changefeed.v1.SubscribeRequest, io.changefeed.v1.SubscribeResponse> getSubscribeMethod;
    if ((getSubscribeMethod = ChangeFeedServiceGrpc.getSubscribeMethod) == null) {
      synchronized (ChangeFeedServiceGrpc.class) {
        if ((getSubscribeMethod = ChangeFeedServiceGrpc.getSubscribeMethod) == null) {
          ChangeFeedServiceGrpc.getSubscribeMethod = getSubscribeMethod =
              io.grpc.MethodDescriptor.<io.changefeed.v1.SubscribeRequest, io.changefeed.v1.SubscribeResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.SERVER_STREAMING)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "Subscribe"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  io.changefeed.v1.SubscribeRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  io.changefeed.v1.SubscribeResponse.getDefaultInstance()))
              .setSchemaDescriptor(new ChangeFeedServiceMethodDescriptorSupplier("Subscribe"))
              .build();
        }
      }
    }
    return getSubscribeMethod;
  }

  private static volatile io.grpc.MethodDescriptor<io.changefeed.v1.GetCapabilitiesRequest,
      io.changefeed.v1.GetCapabilitiesResponse> getGetCapabilitiesMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "GetCapabilities",
      requestType = io.changefeed.v1.GetCapabilitiesRequest.class,
      responseType = io.changefeed.v1.GetCapabilitiesResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<io.changefeed.v1.GetCapabilitiesRequest,
      io.changefeed.v1.GetCapabilitiesResponse> getGetCapabilitiesMethod() {
    io.grpc.MethodDescriptor<io.changefeed.v1.GetCapabilitiesRequest, io.changefeed.v1.GetCapabilitiesResponse> getGetCapabilitiesMethod;
    if ((getGetCapabilitiesMethod = ChangeFeedServiceGrpc.getGetCapabilitiesMethod) == null) {
      synchronized (ChangeFeedServiceGrpc.class) {
        if ((getGetCapabilitiesMethod = ChangeFeedServiceGrpc.getGetCapabilitiesMethod) == null) {
          ChangeFeedServiceGrpc.getGetCapabilitiesMethod = getGetCapabilitiesMethod =
              io.grpc.MethodDescriptor.<io.changefeed.v1.GetCapabilitiesRequest, io.changefeed.v1.GetCapabilitiesResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "GetCapabilities"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  io.changefeed.v1.GetCapabilitiesRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  io.changefeed.v1.GetCapabilitiesResponse.getDefaultInstance()))
              .setSchemaDescriptor(new ChangeFeedServiceMethodDescriptorSupplier("GetCapabilities"))
              .build();
        }
      }
    }
    return getGetCapabilitiesMethod;
  }

  private static volatile io.grpc.MethodDescriptor<io.changefeed.v1.ResolveStartPositionRequest,
      io.changefeed.v1.ResolveStartPositionResponse> getResolveStartPositionMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "ResolveStartPosition",
      requestType = io.changefeed.v1.ResolveStartPositionRequest.class,
      responseType = io.changefeed.v1.ResolveStartPositionResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<io.changefeed.v1.ResolveStartPositionRequest,
      io.changefeed.v1.ResolveStartPositionResponse> getResolveStartPositionMethod() {
    io.grpc.MethodDescriptor<io.changefeed.v1.ResolveStartPositionRequest, io.changefeed.v1.ResolveStartPositionResponse> getResolveStartPositionMethod;
    if ((getResolveStartPositionMethod = ChangeFeedServiceGrpc.getResolveStartPositionMethod) == null) {
      synchronized (ChangeFeedServiceGrpc.class) {
        if ((getResolveStartPositionMethod = ChangeFeedServiceGrpc.getResolveStartPositionMethod) == null) {
          ChangeFeedServiceGrpc.getResolveStartPositionMethod = getResolveStartPositionMethod =
              io.grpc.MethodDescriptor.<io.changefeed.v1.ResolveStartPositionRequest, io.changefeed.v1.ResolveStartPositionResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "ResolveStartPosition"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  io.changefeed.v1.ResolveStartPositionRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  io.changefeed.v1.ResolveStartPositionResponse.getDefaultInstance()))
              .setSchemaDescriptor(new ChangeFeedServiceMethodDescriptorSupplier("ResolveStartPosition"))
              .build();
        }
      }
    }
    return getResolveStartPositionMethod;
  }

  private static volatile io.grpc.MethodDescriptor<io.changefeed.v1.InspectContinuationTokenRequest,
      io.changefeed.v1.InspectContinuationTokenResponse> getInspectContinuationTokenMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "InspectContinuationToken",
      requestType = io.changefeed.v1.InspectContinuationTokenRequest.class,
      responseType = io.changefeed.v1.InspectContinuationTokenResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<io.changefeed.v1.InspectContinuationTokenRequest,
      io.changefeed.v1.InspectContinuationTokenResponse> getInspectContinuationTokenMethod() {
    io.grpc.MethodDescriptor<io.changefeed.v1.InspectContinuationTokenRequest, io.changefeed.v1.InspectContinuationTokenResponse> getInspectContinuationTokenMethod;
    if ((getInspectContinuationTokenMethod = ChangeFeedServiceGrpc.getInspectContinuationTokenMethod) == null) {
      synchronized (ChangeFeedServiceGrpc.class) {
        if ((getInspectContinuationTokenMethod = ChangeFeedServiceGrpc.getInspectContinuationTokenMethod) == null) {
          ChangeFeedServiceGrpc.getInspectContinuationTokenMethod = getInspectContinuationTokenMethod =
              io.grpc.MethodDescriptor.<io.changefeed.v1.InspectContinuationTokenRequest, io.changefeed.v1.InspectContinuationTokenResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "InspectContinuationToken"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  io.changefeed.v1.InspectContinuationTokenRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  io.changefeed.v1.InspectContinuationTokenResponse.getDefaultInstance()))
              .setSchemaDescriptor(new ChangeFeedServiceMethodDescriptorSupplier("InspectContinuationToken"))
              .build();
        }
      }
    }
    return getInspectContinuationTokenMethod;
  }

  /**
   * Creates a new async stub that supports all call types for the service
   */
  public static ChangeFeedServiceStub newStub(io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<ChangeFeedServiceStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<ChangeFeedServiceStub>() {
        @java.lang.Override
        public ChangeFeedServiceStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new ChangeFeedServiceStub(channel, callOptions);
        }
      };
    return ChangeFeedServiceStub.newStub(factory, channel);
  }

  /**
   * Creates a new blocking-style stub that supports all types of calls on the service
   */
  public static ChangeFeedServiceBlockingV2Stub newBlockingV2Stub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<ChangeFeedServiceBlockingV2Stub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<ChangeFeedServiceBlockingV2Stub>() {
        @java.lang.Override
        public ChangeFeedServiceBlockingV2Stub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new ChangeFeedServiceBlockingV2Stub(channel, callOptions);
        }
      };
    return ChangeFeedServiceBlockingV2Stub.newStub(factory, channel);
  }

  /**
   * Creates a new blocking-style stub that supports unary and streaming output calls on the service
   */
  public static ChangeFeedServiceBlockingStub newBlockingStub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<ChangeFeedServiceBlockingStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<ChangeFeedServiceBlockingStub>() {
        @java.lang.Override
        public ChangeFeedServiceBlockingStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new ChangeFeedServiceBlockingStub(channel, callOptions);
        }
      };
    return ChangeFeedServiceBlockingStub.newStub(factory, channel);
  }

  /**
   * Creates a new ListenableFuture-style stub that supports unary calls on the service
   */
  public static ChangeFeedServiceFutureStub newFutureStub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<ChangeFeedServiceFutureStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<ChangeFeedServiceFutureStub>() {
        @java.lang.Override
        public ChangeFeedServiceFutureStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new ChangeFeedServiceFutureStub(channel, callOptions);
        }
      };
    return ChangeFeedServiceFutureStub.newStub(factory, channel);
  }

  /**
   * <pre>
   * Reads the changes of collections in several databases through one contract.
   * Delivery is at least once, in commit order for every key, with stable event ids. Every answer carries a token
   * that resumes. Every error is a google.rpc.Status with an ErrorInfo whose metadata hold category, retryable,
   * provider and request_id.
   * </pre>
   */
  public interface AsyncService {

    /**
     * <pre>
     * Reads one page of changes. Safe to repeat.
     * </pre>
     */
    default void readChanges(io.changefeed.v1.ReadChangesRequest request,
        io.grpc.stub.StreamObserver<io.changefeed.v1.ReadChangesResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getReadChangesMethod(), responseObserver);
    }

    /**
     * <pre>
     * Lists the physical partitions of a collection, for reading them in parallel. Safe to repeat.
     * </pre>
     */
    default void listPhysicalPartitions(io.changefeed.v1.ListPhysicalPartitionsRequest request,
        io.grpc.stub.StreamObserver<io.changefeed.v1.ListPhysicalPartitionsResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getListPhysicalPartitionsMethod(), responseObserver);
    }

    /**
     * <pre>
     * Streams changes until the caller cancels, max_events are delivered or the gateway closes the stream.
     * Set no deadline; watch the heartbeats instead.
     * </pre>
     */
    default void subscribe(io.changefeed.v1.SubscribeRequest request,
        io.grpc.stub.StreamObserver<io.changefeed.v1.SubscribeResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getSubscribeMethod(), responseObserver);
    }

    /**
     * <pre>
     * Says what a collection can do, so that portable code can gate on it. Safe to repeat.
     * </pre>
     */
    default void getCapabilities(io.changefeed.v1.GetCapabilitiesRequest request,
        io.grpc.stub.StreamObserver<io.changefeed.v1.GetCapabilitiesResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getGetCapabilitiesMethod(), responseObserver);
    }

    /**
     * <pre>
     * Turns a start position into a token. Safe to repeat.
     * </pre>
     */
    default void resolveStartPosition(io.changefeed.v1.ResolveStartPositionRequest request,
        io.grpc.stub.StreamObserver<io.changefeed.v1.ResolveStartPositionResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getResolveStartPositionMethod(), responseObserver);
    }

    /**
     * <pre>
     * Explains a token and why it can or cannot be used. Safe to repeat.
     * </pre>
     */
    default void inspectContinuationToken(io.changefeed.v1.InspectContinuationTokenRequest request,
        io.grpc.stub.StreamObserver<io.changefeed.v1.InspectContinuationTokenResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getInspectContinuationTokenMethod(), responseObserver);
    }
  }

  /**
   * Base class for the server implementation of the service ChangeFeedService.
   * <pre>
   * Reads the changes of collections in several databases through one contract.
   * Delivery is at least once, in commit order for every key, with stable event ids. Every answer carries a token
   * that resumes. Every error is a google.rpc.Status with an ErrorInfo whose metadata hold category, retryable,
   * provider and request_id.
   * </pre>
   */
  public static abstract class ChangeFeedServiceImplBase
      implements io.grpc.BindableService, AsyncService {

    @java.lang.Override public final io.grpc.ServerServiceDefinition bindService() {
      return ChangeFeedServiceGrpc.bindService(this);
    }
  }

  /**
   * A stub to allow clients to do asynchronous rpc calls to service ChangeFeedService.
   * <pre>
   * Reads the changes of collections in several databases through one contract.
   * Delivery is at least once, in commit order for every key, with stable event ids. Every answer carries a token
   * that resumes. Every error is a google.rpc.Status with an ErrorInfo whose metadata hold category, retryable,
   * provider and request_id.
   * </pre>
   */
  public static final class ChangeFeedServiceStub
      extends io.grpc.stub.AbstractAsyncStub<ChangeFeedServiceStub> {
    private ChangeFeedServiceStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected ChangeFeedServiceStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new ChangeFeedServiceStub(channel, callOptions);
    }

    /**
     * <pre>
     * Reads one page of changes. Safe to repeat.
     * </pre>
     */
    public void readChanges(io.changefeed.v1.ReadChangesRequest request,
        io.grpc.stub.StreamObserver<io.changefeed.v1.ReadChangesResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getReadChangesMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Lists the physical partitions of a collection, for reading them in parallel. Safe to repeat.
     * </pre>
     */
    public void listPhysicalPartitions(io.changefeed.v1.ListPhysicalPartitionsRequest request,
        io.grpc.stub.StreamObserver<io.changefeed.v1.ListPhysicalPartitionsResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getListPhysicalPartitionsMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Streams changes until the caller cancels, max_events are delivered or the gateway closes the stream.
     * Set no deadline; watch the heartbeats instead.
     * </pre>
     */
    public void subscribe(io.changefeed.v1.SubscribeRequest request,
        io.grpc.stub.StreamObserver<io.changefeed.v1.SubscribeResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncServerStreamingCall(
          getChannel().newCall(getSubscribeMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Says what a collection can do, so that portable code can gate on it. Safe to repeat.
     * </pre>
     */
    public void getCapabilities(io.changefeed.v1.GetCapabilitiesRequest request,
        io.grpc.stub.StreamObserver<io.changefeed.v1.GetCapabilitiesResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getGetCapabilitiesMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Turns a start position into a token. Safe to repeat.
     * </pre>
     */
    public void resolveStartPosition(io.changefeed.v1.ResolveStartPositionRequest request,
        io.grpc.stub.StreamObserver<io.changefeed.v1.ResolveStartPositionResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getResolveStartPositionMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Explains a token and why it can or cannot be used. Safe to repeat.
     * </pre>
     */
    public void inspectContinuationToken(io.changefeed.v1.InspectContinuationTokenRequest request,
        io.grpc.stub.StreamObserver<io.changefeed.v1.InspectContinuationTokenResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getInspectContinuationTokenMethod(), getCallOptions()), request, responseObserver);
    }
  }

  /**
   * A stub to allow clients to do synchronous rpc calls to service ChangeFeedService.
   * <pre>
   * Reads the changes of collections in several databases through one contract.
   * Delivery is at least once, in commit order for every key, with stable event ids. Every answer carries a token
   * that resumes. Every error is a google.rpc.Status with an ErrorInfo whose metadata hold category, retryable,
   * provider and request_id.
   * </pre>
   */
  public static final class ChangeFeedServiceBlockingV2Stub
      extends io.grpc.stub.AbstractBlockingStub<ChangeFeedServiceBlockingV2Stub> {
    private ChangeFeedServiceBlockingV2Stub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected ChangeFeedServiceBlockingV2Stub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new ChangeFeedServiceBlockingV2Stub(channel, callOptions);
    }

    /**
     * <pre>
     * Reads one page of changes. Safe to repeat.
     * </pre>
     */
    public io.changefeed.v1.ReadChangesResponse readChanges(io.changefeed.v1.ReadChangesRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getReadChangesMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Lists the physical partitions of a collection, for reading them in parallel. Safe to repeat.
     * </pre>
     */
    public io.changefeed.v1.ListPhysicalPartitionsResponse listPhysicalPartitions(io.changefeed.v1.ListPhysicalPartitionsRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getListPhysicalPartitionsMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Streams changes until the caller cancels, max_events are delivered or the gateway closes the stream.
     * Set no deadline; watch the heartbeats instead.
     * </pre>
     */
    @io.grpc.ExperimentalApi("https://github.com/grpc/grpc-java/issues/10918")
    public io.grpc.stub.BlockingClientCall<?, io.changefeed.v1.SubscribeResponse>
        subscribe(io.changefeed.v1.SubscribeRequest request) {
      return io.grpc.stub.ClientCalls.blockingV2ServerStreamingCall(
          getChannel(), getSubscribeMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Says what a collection can do, so that portable code can gate on it. Safe to repeat.
     * </pre>
     */
    public io.changefeed.v1.GetCapabilitiesResponse getCapabilities(io.changefeed.v1.GetCapabilitiesRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getGetCapabilitiesMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Turns a start position into a token. Safe to repeat.
     * </pre>
     */
    public io.changefeed.v1.ResolveStartPositionResponse resolveStartPosition(io.changefeed.v1.ResolveStartPositionRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getResolveStartPositionMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Explains a token and why it can or cannot be used. Safe to repeat.
     * </pre>
     */
    public io.changefeed.v1.InspectContinuationTokenResponse inspectContinuationToken(io.changefeed.v1.InspectContinuationTokenRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getInspectContinuationTokenMethod(), getCallOptions(), request);
    }
  }

  /**
   * A stub to allow clients to do limited synchronous rpc calls to service ChangeFeedService.
   * <pre>
   * Reads the changes of collections in several databases through one contract.
   * Delivery is at least once, in commit order for every key, with stable event ids. Every answer carries a token
   * that resumes. Every error is a google.rpc.Status with an ErrorInfo whose metadata hold category, retryable,
   * provider and request_id.
   * </pre>
   */
  public static final class ChangeFeedServiceBlockingStub
      extends io.grpc.stub.AbstractBlockingStub<ChangeFeedServiceBlockingStub> {
    private ChangeFeedServiceBlockingStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected ChangeFeedServiceBlockingStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new ChangeFeedServiceBlockingStub(channel, callOptions);
    }

    /**
     * <pre>
     * Reads one page of changes. Safe to repeat.
     * </pre>
     */
    public io.changefeed.v1.ReadChangesResponse readChanges(io.changefeed.v1.ReadChangesRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getReadChangesMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Lists the physical partitions of a collection, for reading them in parallel. Safe to repeat.
     * </pre>
     */
    public io.changefeed.v1.ListPhysicalPartitionsResponse listPhysicalPartitions(io.changefeed.v1.ListPhysicalPartitionsRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getListPhysicalPartitionsMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Streams changes until the caller cancels, max_events are delivered or the gateway closes the stream.
     * Set no deadline; watch the heartbeats instead.
     * </pre>
     */
    public java.util.Iterator<io.changefeed.v1.SubscribeResponse> subscribe(
        io.changefeed.v1.SubscribeRequest request) {
      return io.grpc.stub.ClientCalls.blockingServerStreamingCall(
          getChannel(), getSubscribeMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Says what a collection can do, so that portable code can gate on it. Safe to repeat.
     * </pre>
     */
    public io.changefeed.v1.GetCapabilitiesResponse getCapabilities(io.changefeed.v1.GetCapabilitiesRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getGetCapabilitiesMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Turns a start position into a token. Safe to repeat.
     * </pre>
     */
    public io.changefeed.v1.ResolveStartPositionResponse resolveStartPosition(io.changefeed.v1.ResolveStartPositionRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getResolveStartPositionMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Explains a token and why it can or cannot be used. Safe to repeat.
     * </pre>
     */
    public io.changefeed.v1.InspectContinuationTokenResponse inspectContinuationToken(io.changefeed.v1.InspectContinuationTokenRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getInspectContinuationTokenMethod(), getCallOptions(), request);
    }
  }

  /**
   * A stub to allow clients to do ListenableFuture-style rpc calls to service ChangeFeedService.
   * <pre>
   * Reads the changes of collections in several databases through one contract.
   * Delivery is at least once, in commit order for every key, with stable event ids. Every answer carries a token
   * that resumes. Every error is a google.rpc.Status with an ErrorInfo whose metadata hold category, retryable,
   * provider and request_id.
   * </pre>
   */
  public static final class ChangeFeedServiceFutureStub
      extends io.grpc.stub.AbstractFutureStub<ChangeFeedServiceFutureStub> {
    private ChangeFeedServiceFutureStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected ChangeFeedServiceFutureStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new ChangeFeedServiceFutureStub(channel, callOptions);
    }

    /**
     * <pre>
     * Reads one page of changes. Safe to repeat.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<io.changefeed.v1.ReadChangesResponse> readChanges(
        io.changefeed.v1.ReadChangesRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getReadChangesMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Lists the physical partitions of a collection, for reading them in parallel. Safe to repeat.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<io.changefeed.v1.ListPhysicalPartitionsResponse> listPhysicalPartitions(
        io.changefeed.v1.ListPhysicalPartitionsRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getListPhysicalPartitionsMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Says what a collection can do, so that portable code can gate on it. Safe to repeat.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<io.changefeed.v1.GetCapabilitiesResponse> getCapabilities(
        io.changefeed.v1.GetCapabilitiesRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getGetCapabilitiesMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Turns a start position into a token. Safe to repeat.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<io.changefeed.v1.ResolveStartPositionResponse> resolveStartPosition(
        io.changefeed.v1.ResolveStartPositionRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getResolveStartPositionMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Explains a token and why it can or cannot be used. Safe to repeat.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<io.changefeed.v1.InspectContinuationTokenResponse> inspectContinuationToken(
        io.changefeed.v1.InspectContinuationTokenRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getInspectContinuationTokenMethod(), getCallOptions()), request);
    }
  }

  private static final int METHODID_READ_CHANGES = 0;
  private static final int METHODID_LIST_PHYSICAL_PARTITIONS = 1;
  private static final int METHODID_SUBSCRIBE = 2;
  private static final int METHODID_GET_CAPABILITIES = 3;
  private static final int METHODID_RESOLVE_START_POSITION = 4;
  private static final int METHODID_INSPECT_CONTINUATION_TOKEN = 5;

  private static final class MethodHandlers<Req, Resp> implements
      io.grpc.stub.ServerCalls.UnaryMethod<Req, Resp>,
      io.grpc.stub.ServerCalls.ServerStreamingMethod<Req, Resp>,
      io.grpc.stub.ServerCalls.ClientStreamingMethod<Req, Resp>,
      io.grpc.stub.ServerCalls.BidiStreamingMethod<Req, Resp> {
    private final AsyncService serviceImpl;
    private final int methodId;

    MethodHandlers(AsyncService serviceImpl, int methodId) {
      this.serviceImpl = serviceImpl;
      this.methodId = methodId;
    }

    @java.lang.Override
    @java.lang.SuppressWarnings("unchecked")
    public void invoke(Req request, io.grpc.stub.StreamObserver<Resp> responseObserver) {
      switch (methodId) {
        case METHODID_READ_CHANGES:
          serviceImpl.readChanges((io.changefeed.v1.ReadChangesRequest) request,
              (io.grpc.stub.StreamObserver<io.changefeed.v1.ReadChangesResponse>) responseObserver);
          break;
        case METHODID_LIST_PHYSICAL_PARTITIONS:
          serviceImpl.listPhysicalPartitions((io.changefeed.v1.ListPhysicalPartitionsRequest) request,
              (io.grpc.stub.StreamObserver<io.changefeed.v1.ListPhysicalPartitionsResponse>) responseObserver);
          break;
        case METHODID_SUBSCRIBE:
          serviceImpl.subscribe((io.changefeed.v1.SubscribeRequest) request,
              (io.grpc.stub.StreamObserver<io.changefeed.v1.SubscribeResponse>) responseObserver);
          break;
        case METHODID_GET_CAPABILITIES:
          serviceImpl.getCapabilities((io.changefeed.v1.GetCapabilitiesRequest) request,
              (io.grpc.stub.StreamObserver<io.changefeed.v1.GetCapabilitiesResponse>) responseObserver);
          break;
        case METHODID_RESOLVE_START_POSITION:
          serviceImpl.resolveStartPosition((io.changefeed.v1.ResolveStartPositionRequest) request,
              (io.grpc.stub.StreamObserver<io.changefeed.v1.ResolveStartPositionResponse>) responseObserver);
          break;
        case METHODID_INSPECT_CONTINUATION_TOKEN:
          serviceImpl.inspectContinuationToken((io.changefeed.v1.InspectContinuationTokenRequest) request,
              (io.grpc.stub.StreamObserver<io.changefeed.v1.InspectContinuationTokenResponse>) responseObserver);
          break;
        default:
          throw new AssertionError();
      }
    }

    @java.lang.Override
    @java.lang.SuppressWarnings("unchecked")
    public io.grpc.stub.StreamObserver<Req> invoke(
        io.grpc.stub.StreamObserver<Resp> responseObserver) {
      switch (methodId) {
        default:
          throw new AssertionError();
      }
    }
  }

  public static final io.grpc.ServerServiceDefinition bindService(AsyncService service) {
    return io.grpc.ServerServiceDefinition.builder(getServiceDescriptor())
        .addMethod(
          getReadChangesMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              io.changefeed.v1.ReadChangesRequest,
              io.changefeed.v1.ReadChangesResponse>(
                service, METHODID_READ_CHANGES)))
        .addMethod(
          getListPhysicalPartitionsMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              io.changefeed.v1.ListPhysicalPartitionsRequest,
              io.changefeed.v1.ListPhysicalPartitionsResponse>(
                service, METHODID_LIST_PHYSICAL_PARTITIONS)))
        .addMethod(
          getSubscribeMethod(),
          io.grpc.stub.ServerCalls.asyncServerStreamingCall(
            new MethodHandlers<
              io.changefeed.v1.SubscribeRequest,
              io.changefeed.v1.SubscribeResponse>(
                service, METHODID_SUBSCRIBE)))
        .addMethod(
          getGetCapabilitiesMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              io.changefeed.v1.GetCapabilitiesRequest,
              io.changefeed.v1.GetCapabilitiesResponse>(
                service, METHODID_GET_CAPABILITIES)))
        .addMethod(
          getResolveStartPositionMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              io.changefeed.v1.ResolveStartPositionRequest,
              io.changefeed.v1.ResolveStartPositionResponse>(
                service, METHODID_RESOLVE_START_POSITION)))
        .addMethod(
          getInspectContinuationTokenMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              io.changefeed.v1.InspectContinuationTokenRequest,
              io.changefeed.v1.InspectContinuationTokenResponse>(
                service, METHODID_INSPECT_CONTINUATION_TOKEN)))
        .build();
  }

  private static abstract class ChangeFeedServiceBaseDescriptorSupplier
      implements io.grpc.protobuf.ProtoFileDescriptorSupplier, io.grpc.protobuf.ProtoServiceDescriptorSupplier {
    ChangeFeedServiceBaseDescriptorSupplier() {}

    @java.lang.Override
    public com.google.protobuf.Descriptors.FileDescriptor getFileDescriptor() {
      return io.changefeed.v1.ChangeFeedServiceOuterClass.getDescriptor();
    }

    @java.lang.Override
    public com.google.protobuf.Descriptors.ServiceDescriptor getServiceDescriptor() {
      return getFileDescriptor().findServiceByName("ChangeFeedService");
    }
  }

  private static final class ChangeFeedServiceFileDescriptorSupplier
      extends ChangeFeedServiceBaseDescriptorSupplier {
    ChangeFeedServiceFileDescriptorSupplier() {}
  }

  private static final class ChangeFeedServiceMethodDescriptorSupplier
      extends ChangeFeedServiceBaseDescriptorSupplier
      implements io.grpc.protobuf.ProtoMethodDescriptorSupplier {
    private final java.lang.String methodName;

    ChangeFeedServiceMethodDescriptorSupplier(java.lang.String methodName) {
      this.methodName = methodName;
    }

    @java.lang.Override
    public com.google.protobuf.Descriptors.MethodDescriptor getMethodDescriptor() {
      return getServiceDescriptor().findMethodByName(methodName);
    }
  }

  private static volatile io.grpc.ServiceDescriptor serviceDescriptor;

  public static io.grpc.ServiceDescriptor getServiceDescriptor() {
    io.grpc.ServiceDescriptor result = serviceDescriptor;
    if (result == null) {
      synchronized (ChangeFeedServiceGrpc.class) {
        result = serviceDescriptor;
        if (result == null) {
          serviceDescriptor = result = io.grpc.ServiceDescriptor.newBuilder(SERVICE_NAME)
              .setSchemaDescriptor(new ChangeFeedServiceFileDescriptorSupplier())
              .addMethod(getReadChangesMethod())
              .addMethod(getListPhysicalPartitionsMethod())
              .addMethod(getSubscribeMethod())
              .addMethod(getGetCapabilitiesMethod())
              .addMethod(getResolveStartPositionMethod())
              .addMethod(getInspectContinuationTokenMethod())
              .build();
        }
      }
    }
    return result;
  }
}
