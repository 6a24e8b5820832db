//! What the server answers about buckets: their class, their place, their deletion, their lists.

use super::*;

#[tokio::test]
async fn a_missing_bucket_comes_before_everything_else() {
    let bench = filled().await;
    for query in ["acl", "tagging", "policy", "anything"] {
        for method in ["GET", "PUT", "DELETE"] {
            let to = |bucket| bench.request(method, "").bucket(bucket).query(query, "");
            refused(to("no-such-bucket"), 404, "NoSuchBucket").await;
            refused(to("bucket"), 501, "NotImplemented").await;
        }
    }
    for key in ["", "k"] {
        let by = |bucket| bench.request("GET", key).bucket(bucket).id("stranger");
        refused(by("no-such-bucket"), 404, "NoSuchBucket").await;
        refused(by("bucket"), 403, "InvalidAccessKeyId").await;
    }
    let by_stranger = bench.request("PUT", "").bucket("another").id("stranger");
    refused(by_stranger, 403, "InvalidAccessKeyId").await;
    // On the service this makes the bucket, too.
    let access = bench
        .request("PUT", "")
        .bucket("another")
        .query("acl", "")
        .id("stranger");
    refused(access, 403, "InvalidAccessKeyId").await;
    let url = format!("{}/no-such-bucket/k", bench.server.endpoint());
    let anonymous = bench.http.get(&url).send().await.unwrap();
    assert_eq!(anonymous.status(), 404);
    assert_eq!(code(anonymous).await, "NoSuchBucket");
    // A wrong signature says nothing of what is there.
    let wrong = bench
        .http
        .get(&url)
        .header("date", time::http(SystemTime::now()))
        .header("authorization", "OSS test:AAAA")
        .send();
    assert_eq!(code(wrong.await.unwrap()).await, "SignatureDoesNotMatch");
}

#[tokio::test]
async fn buckets_are_private_and_need_no_restoring() {
    let bench = Bench::new().await;
    let create = |name| bench.request("PUT", "").bucket(name);
    let class = |class: &str| {
        format!(
            "<CreateBucketConfiguration><StorageClass>{class}</StorageClass></CreateBucketConfiguration>"
        )
    };
    let public = create("public").header("x-oss-acl", "public-read");
    refused(public, 501, "NotImplemented").await;
    refused(
        create("cold").body(class("Archive").as_bytes()),
        501,
        "NotImplemented",
    )
    .await;
    refused(create("broken").body(b"<Create"), 400, "MalformedXML").await;
    for name in ["public", "cold", "broken"] {
        assert!(!bench.folder.path().join(name).exists(), "{name}");
    }
    let private = create("private")
        .header("x-oss-acl", "private")
        .body(class("Standard").as_bytes());
    assert_eq!(private.send().await.unwrap().status(), 200);
}

/// An object that is stored without a class has that of its bucket, whichever server and request stores it.
#[tokio::test]
async fn a_bucket_has_a_class_and_gives_it_to_its_objects() {
    let bench = Bench::new().await;
    let body = |class: &str| {
        format!(
            "<CreateBucketConfiguration><StorageClass>{class}</StorageClass></CreateBucketConfiguration>"
        )
    };
    let create = async |body: &str| {
        let request = bench
            .request("PUT", "")
            .bucket("cool")
            .body(body.as_bytes());
        request.send().await.unwrap()
    };
    assert_eq!(create(&body("IA")).await.status(), 200);
    let again = create(&body("Standard")).await;
    assert_eq!(again.status(), 409);
    assert_eq!(code(again).await, "BucketAlreadyExists");
    for same in ["", &body("IA")] {
        assert_eq!(create(same).await.status(), 200);
    }
    let restarted = Server::start(Config::new(bench.folder.path()))
        .await
        .unwrap();
    let restarted = Bench {
        server: restarted,
        http: bench.http.clone(),
        folder: tempfile::tempdir().unwrap(),
    };
    for (server, key) in [(&bench, "a"), (&restarted, "b")] {
        let put = server.request("PUT", key).bucket("cool").body(b"x");
        assert_eq!(put.send().await.unwrap().status(), 200);
        let own = server
            .request("PUT", "standard")
            .bucket("cool")
            .header("x-oss-storage-class", "Standard")
            .body(b"x");
        assert_eq!(own.send().await.unwrap().status(), 200);
        let copy = server
            .request("PUT", "copy")
            .bucket("cool")
            .header("x-oss-copy-source", "/cool/a")
            .header("x-oss-metadata-directive", "REPLACE");
        assert_eq!(copy.send().await.unwrap().status(), 200);
        for (key, class) in [(key, "IA"), ("copy", "IA"), ("standard", "Standard")] {
            let head = server.request("HEAD", key).bucket("cool").send();
            assert_eq!(
                header(&head.await.unwrap(), "x-oss-storage-class"),
                class,
                "{key}"
            );
        }
        let info = server
            .request("GET", "")
            .bucket("cool")
            .query("bucketInfo", "");
        let list = server.request("GET", "").bucket("");
        for request in [info, list] {
            let document = request.send().await.unwrap().text().await.unwrap();
            assert!(document.contains("<StorageClass>IA<"), "{document}");
        }
    }
    for key in ["a", "b", "copy", "standard"] {
        let delete = bench.request("DELETE", key).bucket("cool").send();
        assert_eq!(delete.await.unwrap().status(), 204);
    }
    let delete = bench.request("DELETE", "").bucket("cool").send();
    assert_eq!(delete.await.unwrap().status(), 204);
    assert!(!bench.folder.path().join("cool").exists());
    // And a bucket of that name has nothing of it.
    assert_eq!(create("").await.status(), 200);
    let put = bench.request("PUT", "a").bucket("cool").body(b"x");
    assert_eq!(put.send().await.unwrap().status(), 200);
    let head = bench.request("HEAD", "a").bucket("cool").send();
    assert_eq!(
        header(&head.await.unwrap(), "x-oss-storage-class"),
        "Standard"
    );
}

/// A class is no metadata: a copy that keeps those has the class it is sent with.
#[tokio::test]
async fn a_copy_that_keeps_its_metadata_has_the_class_that_is_asked_for() {
    let bench = Bench::new().await;
    let put = bench
        .request("PUT", "k")
        .header("x-oss-meta-a", "b")
        .header("content-type", "text/x")
        .body(b"x");
    assert_eq!(put.send().await.unwrap().status(), 200);
    for directive in [None, Some("COPY")] {
        let mut copy = bench
            .request("PUT", "copy")
            .header("x-oss-copy-source", "/bucket/k")
            .header("x-oss-storage-class", "IA");
        if let Some(directive) = directive {
            copy = copy.header("x-oss-metadata-directive", directive);
        }
        assert_eq!(copy.send().await.unwrap().status(), 200);
        let head = bench.request("HEAD", "copy").send().await.unwrap();
        assert_eq!(header(&head, "x-oss-storage-class"), "IA");
        assert_eq!(header(&head, "x-oss-meta-a"), "b");
        assert_eq!(header(&head, "content-type"), "text/x");
    }
}

/// A client that takes the endpoint from an answer reaches this server with it: over plain HTTP.
#[tokio::test]
async fn a_bucket_says_where_it_is_reached() {
    let bench = Bench::new().await;
    let info = bench.request("GET", "").query("bucketInfo", "").send();
    let document = info.await.unwrap().text().await.unwrap();
    let own = bench.server.endpoint();
    for name in ["ExtranetEndpoint", "IntranetEndpoint"] {
        assert!(
            document.contains(&format!("<{name}>{own}</{name}>")),
            "{document}"
        );
    }
    for what in [
        "<BlockPublicAccess>true<",
        "<SSEAlgorithm>None<",
        "<Comment><",
        "<CrossRegionReplication>Disabled<",
        "<TransferAcceleration>Disabled<",
        "<AccessMonitor>Disabled<",
        "<ResourceGroupId>",
    ] {
        assert!(document.contains(what), "{what}: {document}");
    }
}

#[tokio::test]
async fn a_bucket_is_deleted_when_it_is_empty_and_with_nothing_beside_it() {
    let bench = Bench::new().await;
    let delete = || bench.request("DELETE", "");
    let folder = bench.folder.path().join("bucket");
    bench.put("k", b"x").await;
    refused(delete(), 409, "BucketNotEmpty").await;
    bench.request("DELETE", "k").send().await.unwrap();
    let begun = bench.request("POST", "k").query("uploads", "").send();
    let document = begun.await.unwrap().text().await.unwrap();
    let (_, id) = document.split_once("<UploadId>").unwrap();
    let (id, _) = id.split_once('<').unwrap();
    let part = bench
        .request("PUT", "k")
        .query("partNumber", "1")
        .query("uploadId", id)
        .body(b"x");
    assert_eq!(part.send().await.unwrap().status(), 200);
    refused(delete(), 409, "BucketNotEmpty").await;
    let abort = bench.request("DELETE", "k").query("uploadId", id);
    assert_eq!(abort.send().await.unwrap().status(), 204);
    std::fs::write(folder.join("letter"), "dear").unwrap();
    refused(delete(), 409, "BucketNotEmpty").await;
    assert_eq!(
        std::fs::read_to_string(folder.join("letter")).unwrap(),
        "dear"
    );
    std::fs::remove_file(folder.join("letter")).unwrap();
    assert_eq!(delete().send().await.unwrap().status(), 204);
    assert!(!folder.exists());
    refused(delete(), 404, "NoSuchBucket").await;
    // And it can be made again, and has nothing of the old one.
    let create = bench.request("PUT", "").send().await.unwrap();
    assert_eq!(create.status(), 200);
    bench.put("k", b"new").await;
}

#[tokio::test]
async fn buckets_are_listed_in_pages() {
    let bench = Bench::new().await;
    for name in ["aaa-1", "aaa-2", "aaa-3", "zzz"] {
        bench.server.create_bucket(name).unwrap();
    }
    let list = async |query: &[(&'static str, &'static str)]| {
        let mut request = bench.request("GET", "").bucket("");
        for (name, value) in query {
            request = request.query(name, value);
        }
        let document = request.send().await.unwrap().text().await.unwrap();
        let between = |name: &str| {
            let (_, rest) = document
                .split_once(&format!("<{name}>"))
                .unwrap_or_default();
            rest.split('<').next().unwrap_or_default().to_string()
        };
        let names: Vec<String> = document
            .split("<Name>")
            .skip(1)
            .map(|rest| rest.split('<').next().unwrap().to_string())
            .collect();
        (
            names.join(" "),
            between("IsTruncated"),
            between("NextMarker"),
        )
    };
    let page = |names: &str, truncated: &str, next: &str| {
        (names.to_string(), truncated.to_string(), next.to_string())
    };
    let all = "aaa-1 aaa-2 aaa-3 bucket zzz";
    assert_eq!(list(&[]).await, page(all, "false", ""));
    assert_eq!(
        list(&[("max-keys", "2")]).await,
        page("aaa-1 aaa-2", "true", "aaa-2")
    );
    assert_eq!(
        list(&[("max-keys", "2"), ("marker", "aaa-2")]).await,
        page("aaa-3 bucket", "true", "bucket")
    );
    assert_eq!(
        list(&[("max-keys", "2"), ("marker", "bucket")]).await,
        page("zzz", "false", "")
    );
    assert_eq!(
        list(&[("prefix", "aaa"), ("marker", "aaa-1"), ("max-keys", "9")]).await,
        page("aaa-2 aaa-3", "false", "")
    );
    let request = bench.request("GET", "").bucket("").query("max-keys", "0");
    refused(request, 400, "InvalidArgument").await;
}

/// Clients that clear a bucket ask for its live channels.
#[tokio::test]
async fn a_bucket_has_no_live_channels() {
    let bench = filled().await;
    let list = bench.request("GET", "").query("live", "").send();
    let document = list.await.unwrap().text().await.unwrap();
    assert!(document.contains("<ListLiveChannelResult>"), "{document}");
    assert!(document.contains("<IsTruncated>false<"), "{document}");
    assert!(!document.contains("<LiveChannel>"), "{document}");
}

#[tokio::test]
async fn a_bucket_says_how_much_it_holds() {
    let bench = Bench::new().await;
    let stat = async || {
        let answer = bench.request("GET", "").query("stat", "").send();
        answer.await.unwrap().text().await.unwrap()
    };
    let says = |document: &str, bytes: u64, objects: u64| {
        let (bytes, objects) = (
            format!("<Storage>{bytes}</Storage>"),
            format!("<ObjectCount>{objects}</ObjectCount>"),
        );
        assert!(document.contains(&bytes), "{document}");
        assert!(document.contains(&objects), "{document}");
    };
    says(&stat().await, 0, 0);
    for (key, body) in [("a", &b"12345"[..]), ("b/c", b"12"), ("d/", b"1")] {
        let put = bench.request("PUT", key).body(body).send();
        assert_eq!(put.await.unwrap().status(), 200);
    }
    says(&stat().await, 8, 3);
}
